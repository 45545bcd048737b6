"""ViT micro on photographs of groceries: the study's baseline, mmpretrain's own, of the same size as the others.

Learned positions that are interpolated to other grids, GELU; everything else as in visionllama-micro_grocery.py.
"""

_base_ = ['visionllama-micro_grocery.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='VisionTransformer',
        arch=dict(embed_dims=96, num_layers=6, num_heads=3, feedforward_channels=384),
        img_size=72,
        patch_size=12,
        with_cls_token=False,
        out_type='avg_featmap',
        drop_path_rate=0.05,
    ),
)
