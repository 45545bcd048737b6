"""iLLaMA on digits, causal from the first iteration.

Command: python tools/train.py configs/mmpretrain/quickstart/illama_digits_no_soft_mask.py
"""

_base_ = ['illama_digits.py']

custom_hooks = []
