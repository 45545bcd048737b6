# ImageNet-1K with RandAugment 9/0.5 and random erasing (Table 13, column D.2; Table 15 without erasing). Every step has a
# name, so that a config says what it changes: `erase = dict(_base_.erase, erase_prob=0.0)`, then the pipeline of
# `_base_.load`, ..., erase.
dataset_type = 'ImageNet'
data_root = 'data/imagenet'
data_preprocessor = dict(
    num_classes=1000,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)
# transforms work on BGR images
bgr_mean = data_preprocessor['mean'][::-1]
bgr_std = data_preprocessor['std'][::-1]

load = dict(type='LoadImageFromFile')
random_crop = dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic')
flip = dict(type='RandomFlip', prob=0.5, direction='horizontal')
rand_augment = dict(
    type='RandAugment',
    policies='timm_increasing',
    num_policies=2,
    total_level=10,
    magnitude_level=9,
    magnitude_std=0.5,
    hparams=dict(pad_val=[round(x) for x in bgr_mean], interpolation='bicubic'),
)
erase = dict(
    type='RandomErasing',
    erase_prob=0.25,
    mode='rand',
    min_area_ratio=0.02,
    max_area_ratio=1 / 3,
    fill_color=bgr_mean,
    fill_std=bgr_std,
)
# test crop ratio 0.875: 224 / 256
resize_edge = dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic')
center_crop = dict(type='CenterCrop', crop_size=224)
pack = dict(type='PackInputs')

train_pipeline = [load, random_crop, flip, rand_augment, erase, pack]
test_pipeline = [load, resize_edge, center_crop, pack]

train_dataloader = dict(
    batch_size=128,
    num_workers=10,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type=dataset_type, data_root=data_root, split='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=10,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=dataset_type, data_root=data_root, split='val', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
