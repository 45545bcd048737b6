# Ablation of Table 7g: Pyramid VisionLLaMA-S with a learnable position embedding besides AS2DRoPE.
# Paper (Table 7g): top-1 81.6 % (81.6 % without). Not reproduced here. Model: 26.09 M parameters, 3.31 GMACs at 224.
# Schedule (section D.2, Table 13): 8 GPUs x 128 = 1024 images; floor(1,281,167 / 1024) = 1251 iterations x 300 epochs.
#
#     tools/dist_train.sh configs/mmpretrain/pyramid_vision_llama/pyramid-visionllama-small-learnable-pe_8xb128-300e_in1k.py 8 --amp
_base_ = ['pyramid-visionllama-small_8xb128-300e_in1k.py']

model = dict(backbone=dict(abs_pos_embed=True))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'.pos_embed': dict(decay_mult=0.0)}))
