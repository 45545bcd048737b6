"""VisionLLaMA with randomly rescaled positions in training on real handwritten digits: an arm of the study."""

_base_ = ['../quickstart/vision_llama_digits.py']

model = dict(backbone=dict(position_augmentation=dict(rescale=2.0)))
