# VisionLLaMA-B: linear probing on ImageNet-1K after 800 epochs of MAE, as released: base-wide, LARS scales the
# bias too, and pictures are resized bilinearly. All else as in the config it inherits from.
# Paper (Table 3): top-1 69.7 % (ViT-Base-MAE 65.1 %). Not reproduced here.
# Model: 256.44 M parameters, 50.77 GMACs at 224; the 0.77 M of the head are trained.
# Schedule (Table 14): 8 GPUs x 2048 = 16384 images; floor(1,281,167 / 16384) = 78 iterations x 90 epochs.
# Weights: init_cfg.checkpoint; others with --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
#     tools/dist_train.sh configs/mmpretrain/mae_vision_llama/visionllama-base-p16_mae-800e-pre_8xb2048-lp-90e_in1k_released.py 8
_base_ = ['visionllama-base-p16_mae-800e-pre_8xb2048-lp-90e_in1k.py']

model = dict(
    backbone=dict(
        arch='base-wide',
        init_cfg=dict(
            checkpoint='work_dirs/mae_visionllama-base-p16_8xb512-amp-800e_in1k_released/epoch_800.pth',
        ),
    ),
)

# mmpretrain's default
random_crop = dict(_base_.random_crop, interpolation='bilinear')
resize_edge = dict(_base_.resize_edge, interpolation='bilinear')
train_pipeline = [_base_.load, random_crop, _base_.flip, _base_.pack]
test_pipeline = [_base_.load, resize_edge, _base_.center_crop, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(bias=dict(lars_exclude=False))))
