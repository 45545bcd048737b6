"""VisionLLaMA tiny on CIFAR-10: an arm of the study on a GPU.

Data:     CIFAR-10 in data/cifar10/{train,test}/CLASS/*, see docs/study.md; Mixup and CutMix besides crops, flips and colours
Model:    embed_dims 192, 12 blocks, 3 heads, patch 4 on 32 x 32 (8 x 8 tokens), pooled, no class token
Schedule: 40 epochs x 97 iterations x batch 512, bf16
Command:  python tools/train.py configs/mmpretrain/study/visionllama-tiny_cifar10.py
"""

_base_ = ['visionllama-micro_cifar10.py']

model = dict(
    backbone=dict(arch=dict(embed_dims=192, num_layers=12, num_heads=3, feedforward_channels=512), drop_path_rate=0.1),
    head=dict(in_channels=192),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
train_dataloader = dict(batch_size=512, num_workers=12)
val_dataloader = dict(batch_size=500, num_workers=2)
test_dataloader = val_dataloader

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(lr=1e-3),
    paramwise_cfg=dict(custom_keys={'.pos_embed': dict(decay_mult=0.0)}),
)
epochs = 40
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=3, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=3, end=epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=epochs, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2))
