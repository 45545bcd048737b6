# VisionLLaMA-L: fine-tuning on ImageNet-1K after 800 epochs of MAE, as released: large-wide, drop path 0.2
# (Table 15: 0.1), batches accumulated twice, random erasing, and a cosine down to 1e-6 for every layer, above the peaks of
# most of them. All else as in the config it inherits from.
# Paper (Table 3): top-1 85.5 % (ViT-Large-MAE 85.4 %). Not reproduced here.
# Model: 914.83 M parameters, 180.85 GMACs at 224.
# Schedule (Table 15): 8 GPUs x 64 x 2 accumulated = 1024 images; floor(1,281,167 / 512) = 2502 iterations x 50 epochs.
# An iteration of the Runner is one batch of 512: 125,100 iterations are 62,550 steps of the optimizer.
# Weights: init_cfg.checkpoint; others with --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
#     tools/dist_train.sh configs/mmpretrain/mae_vision_llama/visionllama-large-p16_mae-800e-pre_8xb64-ft-50e_in1k_released.py 8
_base_ = ['visionllama-large-p16_mae-800e-pre_8xb128-ft-50e_in1k.py']

model = dict(
    backbone=dict(
        arch='large-wide',
        drop_path_rate=0.2,
        init_cfg=dict(
            checkpoint='work_dirs/mae_visionllama-large-p16_8xb512-amp-800e_in1k_released/epoch_800.pth',
        ),
    ),
)

train_pipeline = [_base_.load, _base_.random_crop, _base_.flip, _base_.rand_augment, _base_.erase, _base_.pack]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))

optim_wrapper = dict(accumulative_counts=2)
cosine = dict(_base_.cosine, eta_min=1e-6, eta_min_ratio=None)
param_scheduler = [_base_.warmup, cosine]
auto_scale_lr = dict(base_batch_size=512)  # of an iteration
