"""ViT tiny on CIFAR-10: the GPU study's baseline, mmpretrain's own, of the same size as visionllama-tiny_cifar10.py."""

_base_ = ['visionllama-tiny_cifar10.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='VisionTransformer',
        arch=dict(embed_dims=192, num_layers=12, num_heads=3, feedforward_channels=768),
        img_size=32,
        patch_size=4,
        with_cls_token=False,
        out_type='avg_featmap',
        drop_path_rate=0.1,
    ),
    # as mmpretrain's DeiT
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=0.02),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ],
)
