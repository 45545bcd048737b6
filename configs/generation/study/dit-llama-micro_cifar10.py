"""DiT-LLaMA micro on CIFAR-10 in pixel space: an arm of the study.

Data:     CIFAR-10 in data/cifar10/{train,test}/CLASS/*, see docs/study.md; mirrored at random
Model:    embed_dims 96, 4 blocks, 4 heads, patch 4 on 32 x 32 (8 x 8 tokens)
Schedule: 20,000 iterations x batch 64; the study trains a tenth of them
Command:  python tools/train.py configs/generation/study/dit-llama-micro_cifar10.py
"""

_base_ = ['../../_base_/generation_runtime.py']

model = dict(
    type='ImageGenerator',
    network=dict(
        type='DiTLLaMA',
        arch=dict(embed_dims=96, num_layers=4, num_heads=4),
        patch_size=4,
        in_channels=3,
        num_classes=10,
        anchor=32,
    ),
    objective=dict(type='GaussianDiffusion'),
    sampler=dict(type='DDIMSampler', num_steps=50, clip=True),
    codec=dict(type='PixelCodec'),
    cfg_scale=1.0,
    flip_prob=0.5,
)

train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='LabelledImages', data_root='data/cifar10/train', size=32),
)

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.0),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [dict(type='LinearLR', start_factor=0.01, end=200, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=20000)

default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=2000),
    rolling_checkpoint=dict(interval=1000),
)
# a short training: the average spans some 200 iterations
custom_hooks = [
    dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=5e-3),
    dict(type='SampleHook', interval=2000, classes=tuple(range(10)), cfg_scale=1.0),
]
