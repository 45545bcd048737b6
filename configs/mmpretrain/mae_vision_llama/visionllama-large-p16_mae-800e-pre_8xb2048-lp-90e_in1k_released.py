# VisionLLaMA-L: linear probing on ImageNet-1K after 800 epochs of MAE, as released: large-wide; LARS and
# interpolation as in the config of B that it inherits from.
# Paper (Table 3): top-1 77.3 % (ViT-Large-MAE 73.7 %). Not reproduced here.
# Model: 914.83 M parameters, 180.85 GMACs at 224; the 1.03 M of the head are trained.
# Schedule (Table 14): 8 GPUs x 2048 = 16384 images; floor(1,281,167 / 16384) = 78 iterations x 90 epochs.
# Weights: init_cfg.checkpoint; others with --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
#     tools/dist_train.sh configs/mmpretrain/mae_vision_llama/visionllama-large-p16_mae-800e-pre_8xb2048-lp-90e_in1k_released.py 8
_base_ = ['visionllama-base-p16_mae-800e-pre_8xb2048-lp-90e_in1k_released.py']

model = dict(
    backbone=dict(
        arch='large-wide',
        frozen_stages=24,
        init_cfg=dict(
            checkpoint='work_dirs/mae_visionllama-large-p16_8xb512-amp-800e_in1k_released/epoch_800.pth',
        ),
    ),
    neck=dict(input_features=1024),
    head=dict(in_channels=1024),
)
