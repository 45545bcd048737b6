"""VisionLLaMA micro with mixed directions on photographs of groceries: an arm of the study (docs/study.md)."""

_base_ = ['visionllama-micro_grocery.py']

model = dict(backbone=dict(rope_cfg=dict(directions='mixed')))
