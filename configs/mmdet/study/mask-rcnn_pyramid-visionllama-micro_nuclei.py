"""Mask R-CNN with Pyramid VisionLLaMA micro on cell nuclei: an arm of the study.

Data:     the nuclei of the 2018 Data Science Bowl in data/nuclei/{train,val}/*.png and instances_{train,val}.json in COCO's
          format, see docs/study.md
Model:    4 stages of 24, 48, 96, 192 channels, two blocks each, windows and keys of 8 x 8; levels of 48 channels
Schedule: 16 epochs x 107 iterations x batch 4, from random weights
Command:  python tools/train.py configs/mmdet/study/mask-rcnn_pyramid-visionllama-micro_nuclei.py
"""

_base_ = ['../../_base_/models/mask_rcnn.py', '../../_base_/datasets/nuclei_256.py', '../../_base_/mmdet_runtime.py']

channels = 48
strides = [4, 8, 16, 32]
embed_dims = [24, 48, 96, 192]

model = dict(
    backbone=dict(
        type='PyramidVisionLLaMA',
        arch=dict(
            embed_dims=embed_dims,
            depths=(2, 2, 2, 2),
            num_heads=(2, 4, 8, 8),
            window_sizes=(8, 8, 8, 8),
            sr_ratios=(8, 4, 2, 1),
            feedforward_channels=(64, 128, 256, 512),
        ),
        img_size=256,
        anchor=256,
        out_indices=(0, 1, 2, 3),
        layer_scale_init_value=0.0,
    ),
    neck=dict(type='FPN', in_channels=embed_dims, out_channels=channels, num_outs=4),
    rpn_head=dict(in_channels=channels, feat_channels=channels, anchor_generator=dict(scales=[2, 3], strides=strides)),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels, featmap_strides=strides, finest_scale=16),
        bbox_head=dict(in_channels=channels, fc_out_channels=256, num_classes=1),
        mask_roi_extractor=dict(out_channels=channels, featmap_strides=strides, finest_scale=16),
        mask_head=dict(num_convs=2, in_channels=channels, conv_out_channels=channels, num_classes=1),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=500, max_per_img=300),
        rcnn=dict(sampler=dict(num=96)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=400), rcnn=dict(max_per_img=200)),
)

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={'relative_position_bias_table': dict(decay_mult=0.0)}
    ),
    clip_grad=dict(max_norm=1.0),
)
epochs = 16
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=1, end=epochs, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=epochs, val_interval=4)
val_cfg = dict()
test_cfg = dict()

default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=2, max_keep_ckpts=1))
