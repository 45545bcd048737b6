# ImageNet-1K with 3-Augment and repeated augmentation (Table 13, column D.1). Every step has a name, so that a config says
# what it changes: `random_crop = dict(_base_.random_crop, scale=192)`, then the pipeline of `_base_.load`, random_crop, ...
dataset_type = 'ImageNet'
data_root = 'data/imagenet'
data_preprocessor = dict(
    num_classes=1000,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)

load = dict(type='LoadImageFromFile')
random_crop = dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic')
augment = [
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='ThreeAugment'),
    dict(type='ColorJitter', brightness=0.3, contrast=0.3, saturation=0.3),
]
# test crop ratio 1.0: the short side is resized to the crop
resize_edge = dict(type='ResizeEdge', scale=224, edge='short', backend='pillow', interpolation='bicubic')
center_crop = dict(type='CenterCrop', crop_size=224)
pack = dict(type='PackInputs')

train_pipeline = [load, random_crop, *augment, pack]
test_pipeline = [load, resize_edge, center_crop, pack]

train_dataloader = dict(
    batch_size=256,
    num_workers=10,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='RepeatAugSampler', num_repeats=3, shuffle=True),
    dataset=dict(type=dataset_type, data_root=data_root, split='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=10,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=dataset_type, data_root=data_root, split='val', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
