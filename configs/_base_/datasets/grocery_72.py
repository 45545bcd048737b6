# Grocery Store Dataset (Klasson et al., WACV 2019), 43 coarse classes: 2,936 photographs to train (its train and val), 2,485
# to test. Test pictures are the centre square at the size given, so 348 pixels are those of the files.
dataset_type = 'CustomDataset'
data_root = 'data/grocery_store'
image_size = 72
# fmt: off
classes = [
    'Apple', 'Asparagus', 'Aubergine', 'Avocado', 'Banana', 'Cabbage', 'Carrots', 'Cucumber', 'Garlic', 'Ginger', 'Juice',
    'Kiwi', 'Leek', 'Lemon', 'Lime', 'Mango', 'Melon', 'Milk', 'Mushroom', 'Nectarine', 'Oat-Milk', 'Oatghurt', 'Onion',
    'Orange', 'Papaya', 'Passion-Fruit', 'Peach', 'Pear', 'Pepper', 'Pineapple', 'Plum', 'Pomegranate', 'Potato', 'Red-Beet',
    'Red-Grapefruit', 'Satsumas', 'Sour-Cream', 'Sour-Milk', 'Soy-Milk', 'Soyghurt', 'Tomato', 'Yoghurt', 'Zucchini',
]
# fmt: on
metainfo = dict(classes=classes)
data_preprocessor = dict(num_classes=43, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=image_size, crop_ratio_range=(0.3, 1.0), interpolation='bilinear'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='ColorJitter', brightness=0.3, contrast=0.3, saturation=0.3),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=image_size, edge='short', interpolation='bilinear'),
    dict(type='CenterCrop', crop_size=image_size),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type, data_root=data_root, data_prefix='train', metainfo=metainfo, pipeline=train_pipeline
    ),
    drop_last=True,
)
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=dataset_type, data_root=data_root, data_prefix='test', metainfo=metainfo, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
# classes are uneven, so recall (the mean over classes) stands beside top-1
val_evaluator = [
    dict(type='Accuracy', topk=(1,)),
    dict(type='SingleLabelMetric', items=('recall',)),
]
test_evaluator = val_evaluator
