# VisionLLaMA-S with what ViT-5 adds to a ViT, as far as it differs: 4 registers, RMSNorm on every head's queries and keys
# and in the place of LayerNorm, no biases of q, k and v. Supervised on ImageNet-1K at 224.
# Paper: no row for this model. ViT-5-S, whose feed-forward layers are GELU's and whose registers have positions of their
# own, reports top-1 82.2 % (arXiv 2602.08071). Model: 21.94 M parameters, 4.70 GMACs at 224.
# Schedule (VisionLLaMA's, section D.1): 8 GPUs x 256 = 2048 images; floor(1,281,167 / 2048) = 625 iterations x 800 epochs.
#
#     tools/dist_train.sh configs/mmpretrain/vision_llama/visionllama-small-p16-registers4-qk-norm-rmsnorm_8xb256-800e_in1k.py 8 --amp
_base_ = ['visionllama-small-p16_8xb256-800e_in1k.py']

model = dict(
    backbone=dict(
        num_registers=4,
        qk_norm_cfg=dict(type='RMSNorm', eps=1e-6),
        norm_cfg=dict(type='RMSNorm', eps=1e-6),
        qkv_bias=False,
    )
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'.registers': dict(decay_mult=0.0)}))
