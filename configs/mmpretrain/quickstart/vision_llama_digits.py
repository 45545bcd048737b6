"""Plain VisionLLaMA on real handwritten digits: the quickstart, and a template for small image folders.

Data:     python -m mmvisionllama.datasets.digits data/digits   (1,437 training and 360 test scans of 8 x 8, no download)
Model:    embed_dims 64, 4 blocks, 4 heads, patch 4 on 32 x 32 (8 x 8 tokens)
Schedule: 18 epochs x 22 iterations x batch 64
Command:  python tools/train.py configs/mmpretrain/quickstart/vision_llama_digits.py
"""

_base_ = ['../../_base_/default_runtime.py']

image_size = 32
data_root = 'data/digits'

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionLLaMA',
        arch=dict(embed_dims=64, num_layers=4, num_heads=4),
        img_size=image_size,
        anchor=image_size,  # the resolution the weights are trained at
        patch_size=4,
        layer_scale_init_value=0.0,  # 1e-4 is meant for hundreds of epochs
    ),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=64,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
)

data_preprocessor = dict(num_classes=10, mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], to_rgb=True)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_size, interpolation='bicubic'),
    dict(type='RandomCrop', crop_size=image_size, padding=3),
    dict(type='Rotate', angle=10.0, prob=0.5, random_negative_prob=0.5),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_size, interpolation='bicubic'),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='CustomDataset', data_root=data_root, data_prefix='train', pipeline=train_pipeline),
    drop_last=True,
)
val_dataloader = dict(
    batch_size=180,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CustomDataset', data_root=data_root, data_prefix='test', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={'.cls_token': dict(decay_mult=0.0)}),
    clip_grad=dict(max_norm=1.0),
)
epochs = 18
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=3, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=3, end=epochs, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=epochs, val_interval=6)
val_cfg = dict()
test_cfg = dict()

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=1, max_keep_ckpts=2),
)
randomness = dict(seed=0)
