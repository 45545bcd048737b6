# VisionLLaMA-L: MAE pre-training on ImageNet-1K, 800 epochs
# Paper (Table 3): top-1 85.5 % after fine-tuning, 77.3 % by linear probing (ViT-Large-MAE: 85.4 % and 73.7 %).
# Not reproduced here.
# Model: 335.51 M parameters, 62.47 GMACs at 224 (encoder over a whole image). The encoder has 309.27 M; pre-training
# takes 15.38 GMACs in the encoder (mask ratio 0.75) and 5.38 in the decoder per image.
# Schedule (section D.3): 8 GPUs x 512 = 4096 images; floor(1,281,167 / 4096) = 312 iterations x 800 epochs; bf16.
# The code released for this row builds large-wide, 913.80 M (docs/mae.md): ..._released.py
#
#     tools/dist_train.sh configs/mmpretrain/mae_vision_llama/mae_visionllama-large-p16_8xb512-amp-800e_in1k.py 8
_base_ = ['mae_visionllama-base-p16_8xb512-amp-800e_in1k.py']

model = dict(backbone=dict(arch='large'), neck=dict(embed_dim=1024))
