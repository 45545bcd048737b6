"""MAE pre-training on handwritten digits, labels unused: first step of `make demo-mae`.

Data:     python -m mmvisionllama.datasets.digits data/digits   (1,437 training scans of 8 x 8, no download)
Model:    the encoder of the quickstart (embed_dims 64, 4 blocks, patch 4 on 32 x 32), mask ratio 0.75, 1 decoder block
Schedule: 80 epochs x 11 iterations x batch 128
Command:  python tools/train.py configs/mmpretrain/quickstart/mae_digits.py
"""

_base_ = ['../../_base_/default_runtime.py']

image_size = 32
data_root = 'data/digits'

model = dict(
    type='MAE',
    backbone=dict(
        type='MAEVisionLLaMA',
        arch=dict(embed_dims=64, num_layers=4, num_heads=4),
        img_size=image_size,
        anchor=image_size,
        patch_size=4,
        mask_ratio=0.75,
    ),
    neck=dict(
        type='MAEPretrainDecoder',
        num_patches=64,
        patch_size=4,
        embed_dim=64,
        decoder_embed_dim=64,
        decoder_depth=1,
        decoder_num_heads=4,
    ),
    head=dict(
        type='MAEPretrainHead',
        norm_pix=False,  # most patches of a digit are flat background: normalised, they would be noise
        patch_size=4,
        loss=dict(type='PixelReconstructionLoss', criterion='L2'),
    ),
)

data_preprocessor = dict(
    type='SelfSupDataPreprocessor',
    mean=[127.5, 127.5, 127.5],
    std=[127.5, 127.5, 127.5],
    to_rgb=True,
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_size, interpolation='bicubic'),
    dict(type='RandomCrop', crop_size=image_size, padding=3),
    dict(type='Rotate', angle=10.0, prob=0.5, random_negative_prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='CustomDataset', data_root=data_root, data_prefix='train', pipeline=train_pipeline),
    drop_last=True,
)

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05),
    paramwise_cfg=dict(
        flat_decay_mult=0.0,
        custom_keys={'cls_token': dict(decay_mult=0.0), 'mask_token': dict(decay_mult=0.0)},
    ),
)
epochs = 80
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=10, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=0.0, begin=10, end=epochs, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=epochs)

default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=20, max_keep_ckpts=1))
custom_hooks = [dict(type='MAEReconstructionHook', interval=20)]
