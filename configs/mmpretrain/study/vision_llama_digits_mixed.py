"""VisionLLaMA with learned directions on real handwritten digits: an arm of the study (docs/study.md)."""

_base_ = ['../quickstart/vision_llama_digits.py']

model = dict(backbone=dict(rope_cfg=dict(directions='mixed')))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'.vectors': dict(decay_mult=0.0)}))
