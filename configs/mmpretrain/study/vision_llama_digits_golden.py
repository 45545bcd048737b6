"""VisionLLaMA with golden directions on real handwritten digits: an arm of the study (docs/study.md)."""

_base_ = ['../quickstart/vision_llama_digits.py']

model = dict(backbone=dict(rope_cfg=dict(directions='golden')))
