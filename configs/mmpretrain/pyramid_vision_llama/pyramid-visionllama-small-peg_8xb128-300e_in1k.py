# Ablation of Table 7g: Pyramid VisionLLaMA-S with a position encoding generator in each stage besides AS2DRoPE.
# Paper (Table 7g): top-1 81.8 % (81.6 % without). Not reproduced here. Model: 25.90 M parameters, 3.31 GMACs at 224.
# Schedule (section D.2, Table 13): 8 GPUs x 128 = 1024 images; floor(1,281,167 / 1024) = 1251 iterations x 300 epochs.
#
#     tools/dist_train.sh configs/mmpretrain/pyramid_vision_llama/pyramid-visionllama-small-peg_8xb128-300e_in1k.py 8 --amp
_base_ = ['pyramid-visionllama-small_8xb128-300e_in1k.py']

model = dict(backbone=dict(peg=True))
# no decay for the generators' kernels either, as in Twins
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'.pegs.': dict(decay_mult=0.0)}))
