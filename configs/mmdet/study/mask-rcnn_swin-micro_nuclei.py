"""Mask R-CNN with a small Swin on cell nuclei: the study's baseline, mmdet's own, for as many operations."""

_base_ = ['mask-rcnn_pyramid-visionllama-micro_nuclei.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        pretrain_img_size=256,
        embed_dims=24,
        depths=(2, 2, 2, 2),
        num_heads=(2, 4, 8, 8),
        window_size=8,
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=[24, 48, 96, 192]),
)
