"""VisionLLaMA micro on photographs of groceries, 80 pixels, trained for its weights and not for a comparison.

Data:     as visionllama-micro_grocery.py, with smaller crops and stronger colour jitter
Model:    embed_dims 96, 6 blocks, 3 heads, patch 8 on 80 x 80 (10 x 10 tokens), pooled, no class token
Schedule: 120 epochs x 45 iterations x batch 64, CutMix in every other batch
Command:  python tools/train.py configs/mmpretrain/study/visionllama-micro-80px_grocery.py
"""

_base_ = ['visionllama-micro_grocery.py']

image_size = 80
model = dict(
    backbone=dict(img_size=image_size, anchor=image_size, patch_size=8, drop_path_rate=0.1),
    train_cfg=dict(augments=[dict(type='CutMix', alpha=1.0)], probs=[0.5]),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=image_size, crop_ratio_range=(0.2, 1.0), interpolation='bilinear'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=image_size, edge='short', interpolation='bilinear'),
    dict(type='CenterCrop', crop_size=image_size),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=3e-3))
epochs = 120
warmup = 5
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=warmup, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=warmup, end=epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=epochs)
