"""VisionLLaMA micro with randomly rescaled positions in training on photographs of groceries: an arm of the study."""

_base_ = ['visionllama-micro_grocery.py']

model = dict(backbone=dict(position_augmentation=dict(rescale=2.0)))
