"""ViT on real handwritten digits: the study's baseline, mmpretrain's own, of the size of vision_llama_digits.py."""

_base_ = ['../quickstart/vision_llama_digits.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='VisionTransformer',
        arch=dict(embed_dims=64, num_layers=4, num_heads=4, feedforward_channels=384),
        img_size=32,
        patch_size=4,
    ),
)
