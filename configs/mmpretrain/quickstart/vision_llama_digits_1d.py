"""The quickstart with 1D RoPE, trained alike: the first row of the resolution study (Table 12 of the paper).

Command: python tools/train.py configs/mmpretrain/quickstart/vision_llama_digits_1d.py
"""

_base_ = ['vision_llama_digits.py']

model = dict(backbone=dict(rope_cfg=dict(kind='1d')))
