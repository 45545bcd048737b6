"""Pyramid VisionLLaMA micro on photographs of groceries, 72 pixels, trained for its weights and not for a comparison.

Data:     as visionllama-micro_grocery.py, smaller crops
Model:    as pyramid-visionllama-micro_grocery.py, drop path 0.1
Schedule: 120 epochs x 45 iterations x batch 64, CutMix in every other batch
Command:  python tools/train.py configs/mmpretrain/study/pyramid-visionllama-micro-120e_grocery.py
"""

_base_ = ['pyramid-visionllama-micro_grocery.py']

model = dict(
    backbone=dict(drop_path_rate=0.1),
    train_cfg=dict(augments=[dict(type='CutMix', alpha=1.0)], probs=[0.5]),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=72, crop_ratio_range=(0.2, 1.0), interpolation='bilinear'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

optim_wrapper = dict(optimizer=dict(lr=3e-3))
epochs = 120
warmup = 5
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=warmup, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=warmup, end=epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=epochs)
