"""UperNet with a small Pyramid VisionLLaMA on scenes of real digits: the quickstart, and a template for own label maps.

Data:     python -m mmvisionllama.datasets.digit_scenes data/digit_scenes   (600 training, 80 larger validation scenes)
Model:    4 stages of 24, 48, 96, 96 channels; trained on crops of 128 x 128, tested on whole scenes of any size
Schedule: 1,400 iterations x batch 12
Command:  python tools/train.py configs/mmseg/quickstart/pyramid_vision_llama_digit_scenes.py --cfg-options \\
              model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.prefix=backbone. \\
              model.backbone.init_cfg.checkpoint=work_dirs/pyramid_vision_llama_digit_crops/epoch_5.pth
          without the options it trains from scratch; the schedule is meant for a pre-trained backbone
"""

_base_ = ['../../_base_/mmseg_runtime.py']

data_root = 'data/digit_scenes'
classes = ('ground', *map(str, range(10)))
palette = [
    [40, 40, 40], [214, 30, 50], [0, 150, 80], [255, 220, 40], [0, 100, 220], [255, 140, 0],
    [150, 50, 200], [110, 225, 255], [255, 130, 200], [140, 85, 40], [255, 255, 255],
]  # fmt: skip
crop = 128

embed_dims = [24, 48, 96, 96]
norm_cfg = dict(type='BN')
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5, 127.5, 127.5],
        std=[64.0, 64.0, 64.0],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(crop, crop),
    ),
    backbone=dict(
        type='PyramidVisionLLaMA',
        arch=dict(
            embed_dims=embed_dims,
            depths=(2, 2, 2, 2),
            num_heads=(2, 4, 6, 6),
            window_sizes=(8, 8, 8, 8),
            sr_ratios=(8, 4, 2, 1),
            feedforward_channels=(64, 128, 256, 256),
        ),
        img_size=crop,
        anchor=64,  # where configs/mmpretrain/quickstart/pyramid_vision_llama_digit_crops.py trains its backbone
        out_indices=(0, 1, 2, 3),
        layer_scale_init_value=0.0,
    ),
    decode_head=dict(
        type='UPerHead',
        in_channels=embed_dims,
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3),
        channels=48,
        dropout_ratio=0.1,
        num_classes=len(classes),
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss'),
        # mmsegmentation's 0.01 is meant for long schedules
        init_cfg=dict(type='Normal', std=0.1, override=dict(name='conv_seg')),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole', crop_size=(crop, crop), stride=(85, 85)),
)

check_files = dict(type='CheckSegFiles', num_classes=len(classes), reduce_zero_label=True)
train_pipeline = [
    check_files,
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(192, 192), ratio_range=(0.75, 1.25), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(crop, crop)),
    dict(type='PackSegInputs'),
]
# starts with the loader, which mmseg.apis replaces to predict arrays; the data set below checks its files before it
test_pipeline = [
    dict(type='LoadImageFromFile'),
    # whole grids in all stages, as in training: what padding fills up is easily taken for ink. Labels stay as they are.
    dict(type='ResizeToMultiple', size_divisor=32),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]

dataset = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes, palette=palette),
    reduce_zero_label=True,  # 0 is unlabelled
)
train_dataloader = dict(
    batch_size=12,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
        **dataset,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=[check_files, *test_pipeline],
        **dataset,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    # the head is new, the backbone is not. mmengine decays all that such a key names, so the head's biases and norms, too
    paramwise_cfg=dict(flat_decay_mult=0.0, custom_keys={'decode_head': dict(lr_mult=3.0)}),
    clip_grad=dict(max_norm=1.0),
)
iterations = 1400
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=50),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=50, end=iterations),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=350)
val_cfg = dict()
test_cfg = dict()

default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=350, max_keep_ckpts=1),
)
