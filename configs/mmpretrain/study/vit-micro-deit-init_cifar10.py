"""ViT micro on CIFAR-10 with the initial values and the weight decay of mmpretrain's DeiT: a control of the study.

Model:    as vit-micro_cifar10.py; attention from a truncated normal of 0.02 (mmpretrain's blocks set their FFN's
          themselves, by Xavier's rule, there as here), no decay of the learned positions
"""

_base_ = ['vit-micro_cifar10.py']

model = dict(
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=0.02),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ],
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'.pos_embed': dict(decay_mult=0.0)}))
