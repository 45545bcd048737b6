"""The same training as mae_digits_finetune.py from random weights: what pre-training is compared with.

Schedule: 200 iterations x batch 64
Command:  python tools/train.py configs/mmpretrain/quickstart/mae_digits_scratch.py
"""

_base_ = ['mae_digits_finetune.py']

model = dict(backbone=dict(init_cfg=None))
