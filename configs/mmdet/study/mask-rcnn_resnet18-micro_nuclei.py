"""Mask R-CNN with a narrow ResNet-18 on cell nuclei: the study's baseline, mmdet's own, for as many operations."""

_base_ = ['mask-rcnn_pyramid-visionllama-micro_nuclei.py']

model = dict(
    backbone=dict(_delete_=True, type='ResNet', depth=18, base_channels=20, norm_eval=False),
    neck=dict(in_channels=[20, 40, 80, 160]),
)
