"""VisionLLaMA micro on photographs of groceries with what the study recommends beyond the training size (docs/study.md).

Attention's logits are divided by log N / log N0 away from the anchor's N0 patches. At the training size that changes
nothing, so weights of visionllama-micro_grocery.py are this config's, too.
"""

_base_ = ['visionllama-micro_grocery.py']

model = dict(backbone=dict(logit_scale='inverse_log_n'))
