# VisionLLaMA-B: linear probing on ImageNet-1K after 1600 epochs of MAE
# Paper (Table 3): top-1 71.7 % (ViT-Base-MAE 67.0 %). Not reproduced here.
# Model: 86.37 M parameters, 17.47 GMACs at 224; the 0.77 M of the head are trained.
# Schedule (Table 14): 8 GPUs x 2048 = 16384 images; floor(1,281,167 / 16384) = 78 iterations x 90 epochs.
# The code released for this row builds base-wide, 255.68 M (docs/mae.md): ..._released.py
# Weights: init_cfg.checkpoint; others with --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
#     tools/dist_train.sh configs/mmpretrain/mae_vision_llama/visionllama-base-p16_mae-1600e-pre_8xb2048-lp-90e_in1k.py 8
_base_ = ['visionllama-base-p16_mae-800e-pre_8xb2048-lp-90e_in1k.py']

model = dict(
    backbone=dict(
        init_cfg=dict(
            checkpoint='work_dirs/mae_visionllama-base-p16_8xb512-amp-1600e_in1k/epoch_1600.pth',
        ),
    ),
)
