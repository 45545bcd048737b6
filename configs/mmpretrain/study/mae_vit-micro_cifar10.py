"""MAE with ViT micro: the study's baseline, mmpretrain's own, of the same size as mae_visionllama-micro_cifar10.py."""

_base_ = ['mae_visionllama-micro_cifar10.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='MAEViT',
        arch=dict(embed_dims=96, num_layers=6, num_heads=3, feedforward_channels=384),
        img_size=32,
        patch_size=4,
        mask_ratio=0.75,
    ),
)
