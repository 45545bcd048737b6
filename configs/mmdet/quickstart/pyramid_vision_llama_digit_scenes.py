"""Mask R-CNN with a small Pyramid VisionLLaMA on scenes of real digits: the quickstart, and a template for own objects.

Data:     python -m mmvisionllama.datasets.digit_scenes data/digit_scenes   (600 training, 80 larger validation scenes)
Model:    4 stages of 24, 48, 96, 96 channels (those of the segmentation quickstart), levels of 48 channels
Schedule: 12 epochs x 75 iterations x batch 8
Command:  python tools/train.py configs/mmdet/quickstart/pyramid_vision_llama_digit_scenes.py --cfg-options \\
              model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.prefix=backbone. \\
              model.backbone.init_cfg.checkpoint=work_dirs/pyramid_vision_llama_digit_crops/epoch_5.pth
          without the options it trains from scratch; the schedule is meant for a pre-trained backbone
"""

_base_ = ['../../_base_/models/mask_rcnn.py', '../../_base_/mmdet_runtime.py']

data_root = 'data/digit_scenes/'
metainfo = dict(classes=tuple(map(str, range(10))))
channels = 48
strides = [4, 8, 16, 32]
embed_dims = [24, 48, 96, 96]

model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[64.0] * 3),
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
        img_size=160,
        anchor=64,  # where configs/mmpretrain/quickstart/pyramid_vision_llama_digit_crops.py trains its backbone
        out_indices=(0, 1, 2, 3),
        layer_scale_init_value=0.0,
    ),
    neck=dict(type='FPN', in_channels=embed_dims, out_channels=channels, num_outs=4),
    rpn_head=dict(
        in_channels=channels, feat_channels=channels, anchor_generator=dict(scales=[3, 4.5], strides=strides)
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels, featmap_strides=strides, finest_scale=16),
        bbox_head=dict(in_channels=channels, fc_out_channels=256, num_classes=10),
        mask_roi_extractor=dict(out_channels=channels, featmap_strides=strides, finest_scale=16),
        mask_head=dict(num_convs=2, in_channels=channels, conv_out_channels=channels, num_classes=10),
    ),
    # few objects: fewer proposals and regions than COCO needs
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=500, max_per_img=150),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=150), rcnn=dict(max_per_img=50)),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale=(160, 160), ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale_factor=1.0, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='images/training/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=0),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='images/validation/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file=data_root + 'annotations/instances_val.json', metric=['bbox', 'segm'])
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(flat_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0),
)
epochs = 12
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=1, end=epochs, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=epochs, val_interval=3)
val_cfg = dict()
test_cfg = dict()

default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=1, max_keep_ckpts=1))
randomness = dict(seed=0)
