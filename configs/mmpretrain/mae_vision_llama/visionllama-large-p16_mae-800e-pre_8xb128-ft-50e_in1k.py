# VisionLLaMA-L: fine-tuning on ImageNet-1K after 800 epochs of MAE
# Paper (Table 3): top-1 85.5 % (ViT-Large-MAE 85.4 %). Not reproduced here.
# Model: 310.29 M parameters, 62.47 GMACs at 224.
# Schedule (Table 15): 8 GPUs x 128 = 1024 images; floor(1,281,167 / 1024) = 1251 iterations x 50 epochs.
# The code released for this row builds large-wide, 913.80 M (docs/mae.md): ..._released.py
# Weights: init_cfg.checkpoint; others with --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
#     tools/dist_train.sh configs/mmpretrain/mae_vision_llama/visionllama-large-p16_mae-800e-pre_8xb128-ft-50e_in1k.py 8
_base_ = ['visionllama-base-p16_mae-800e-pre_8xb128-ft-100e_in1k.py']

model = dict(
    backbone=dict(
        arch='large',
        init_cfg=dict(
            checkpoint='work_dirs/mae_visionllama-large-p16_8xb512-amp-800e_in1k/epoch_800.pth',
        ),
    ),
    head=dict(in_channels=1024),
)

cosine = dict(_base_.cosine, end=50)
param_scheduler = [_base_.warmup, cosine]
train_cfg = dict(max_epochs=50)
