"""Pyramid VisionLLaMA micro with the released code's positions of GSA's keys: an arm of the study."""

_base_ = ['pyramid-visionllama-micro_grocery.py']

model = dict(backbone=dict(key_position='flat_index'))
