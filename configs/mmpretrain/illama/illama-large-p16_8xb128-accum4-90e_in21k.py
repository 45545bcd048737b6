# iLLaMA-L, pre-trained on ImageNet-21K (10,450 classes) at 224, constant soft mask over the first 30 epochs.
# Paper: no accuracy; the log of the release ends at top-1 47.35 % on its held-out images. Not reproduced here.
# Model: 320.13 M parameters, 62.80 GMACs at 224.
# Schedule: 8 GPUs x 128 x 4 accumulated = 4096 images; ceil(11,060,223 / 1024) = 10801 iterations x 90 epochs. An
# iteration of the Runner is one batch of 1024, and batches of two epochs may make one step: 972,090 iterations are
# 243,023 steps of the optimizer (the release drops the rest of each epoch: 243,000).
# lr 1e-3, wd 0.01, warm-up 5 epochs, Mixup 0.8, CutMix 1.0, drop-path 0.1.
#
#     tools/dist_train.sh configs/mmpretrain/illama/illama-large-p16_8xb128-accum4-90e_in21k.py 8
_base_ = [
    '../../_base_/models/illama.py',
    '../../_base_/datasets/imagenet21k_rand_augment_224.py',
    '../../_base_/schedules/imagenet_bs4096_adamw_illama_300e.py',
    '../../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(arch='large', drop_path_rate=0.1),
    head=dict(in_channels=1024, num_classes=10450),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
custom_hooks = [dict(type='SoftMaskHook', schedule='constant', end=30)]

optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.01))
cosine = dict(_base_.cosine, end=90)
param_scheduler = [_base_.warmup, cosine]
train_cfg = dict(max_epochs=90)
