"""Twins-SVT micro on photographs of groceries: mmpretrain's own, of the same shape as pyramid-visionllama-micro_grocery.py.

Position encodings by a convolution, GELU; everything else is the same.
"""

_base_ = ['pyramid-visionllama-micro_grocery.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='SVT',
        arch=dict(
            embed_dims=[32, 64, 128],
            depths=[2, 2, 2],
            num_heads=[2, 4, 8],
            patch_sizes=[3, 2, 2],
            strides=[3, 2, 2],
            mlp_ratios=[4, 4, 4],
            sr_ratios=[4, 2, 1],
            window_sizes=[6, 6, 6],
        ),
        out_indices=(2,),
        qkv_bias=True,
        norm_after_stage=[False, False, True],
        drop_path_rate=0.05,
    ),
    neck=dict(type='GlobalAveragePooling'),
)
