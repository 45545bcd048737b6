"""iLLaMA on real handwritten digits: causal attention that a soft mask phases in over the first epochs.

Data:     python -m mmvisionllama.datasets.digits data/digits   (1,437 training and 360 test scans of 8 x 8, no download)
Model:    embed_dims 64, 4 blocks, 4 heads, patch 4 on 32 x 32 (8 x 8 patches and the class token last)
Schedule: that of vision_llama_digits.py, linear soft mask over the first 5 epochs
Command:  python tools/train.py configs/mmpretrain/quickstart/illama_digits.py
"""

_base_ = ['vision_llama_digits.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='iLLaMA',
        arch=dict(embed_dims=64, num_layers=4, num_heads=4),
        img_size=32,
        anchor=32,
        patch_size=4,
    ),
    head=dict(in_channels=64),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'.pos_embed': dict(decay_mult=0.0)}))
custom_hooks = [dict(type='SoftMaskHook', schedule='linear', end=5)]
train_cfg = dict(val_interval=1)
