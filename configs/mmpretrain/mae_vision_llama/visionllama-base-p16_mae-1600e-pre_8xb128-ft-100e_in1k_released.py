# VisionLLaMA-B: fine-tuning on ImageNet-1K after 1600 epochs of MAE, as released: base-wide, learning rate 2e-3
# (Table 15: base rate 1e-3, 4e-3 at 1024 images), random erasing, and a cosine down to 1e-6 for every layer, above the
# peaks of the lowest ones. All else as in the config it inherits from.
# Paper (Table 3): top-1 84.3 % (ViT-Base-MAE 83.4 %). Not reproduced here.
# Model: 256.44 M parameters, 50.77 GMACs at 224.
# Schedule (Table 15): 8 GPUs x 128 = 1024 images; floor(1,281,167 / 1024) = 1251 iterations x 100 epochs.
# Weights: init_cfg.checkpoint; others with --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
#     tools/dist_train.sh configs/mmpretrain/mae_vision_llama/visionllama-base-p16_mae-1600e-pre_8xb128-ft-100e_in1k_released.py 8
_base_ = ['visionllama-base-p16_mae-800e-pre_8xb128-ft-100e_in1k_released.py']

model = dict(
    backbone=dict(
        init_cfg=dict(
            checkpoint='work_dirs/mae_visionllama-base-p16_8xb512-amp-1600e_in1k_released/epoch_1600.pth',
        ),
    ),
)
