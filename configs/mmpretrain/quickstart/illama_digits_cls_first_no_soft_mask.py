"""iLLaMA on digits with the class token first, where a ViT has it: under a causal mask it sees only itself, and the model
answers the same for every image.

Command: python tools/train.py configs/mmpretrain/quickstart/illama_digits_cls_first_no_soft_mask.py
"""

_base_ = ['illama_digits_no_soft_mask.py']

model = dict(backbone=dict(cls_token_position='first'))
