# DiT-LLaMA on handwritten digits in pixel space: no VAE, no download, no GPU.
# Data:     python -m mmvisionllama.datasets.digits data/digits   (1,437 training and 360 test scans of 8 x 8)
# Model:    embed_dims 96, 4 blocks, 4 heads, patch 2 on 8 x 8 (4 x 4 tokens)
# Schedule: 2,000 iterations x batch 64
#
#     python tools/train.py configs/generation/quickstart/dit_llama_digits.py
_base_ = ['../../_base_/generation_runtime.py']

img_size = 8

model = dict(
    type='ImageGenerator',
    network=dict(
        type='DiTLLaMA',
        arch=dict(embed_dims=96, num_layers=4, num_heads=4),
        patch_size=2,
        in_channels=1,
        num_classes=10,
        anchor=8,
    ),
    objective=dict(type='GaussianDiffusion'),
    sampler=dict(type='DDPMSampler', num_steps=250, clip=True),
    codec=dict(type='PixelCodec'),
    cfg_scale=2.0,
)

train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='LabelledImages', data_root='data/digits/train', size=8, grayscale=True),
)

# the labels' embedding starts at 0.02 and is learned last: in a short training its rate decides what the classes get
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.0),
    paramwise_cfg=dict(custom_keys={'label_embed': dict(lr_mult=10.0)}),
)
param_scheduler = []
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2000)

default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=500, max_keep_ckpts=2),
)
# a short training: the average spans some 100 iterations
custom_hooks = [
    dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=1e-2),
    dict(type='SampleHook', interval=500, classes=tuple(range(10)), sampler=dict(type='DDIMSampler', clip=True)),
]
