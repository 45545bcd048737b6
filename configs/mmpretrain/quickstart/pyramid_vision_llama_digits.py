"""Pyramid VisionLLaMA on real handwritten digits: the quickstart with LSA and GSA.

Model:    3 stages of 24, 48, 96 channels and 2 blocks each; 16 x 16, 8 x 8 and 4 x 4 tokens at 32 x 32 pixels
Schedule: as vision_llama_digits.py
Command:  python tools/train.py configs/mmpretrain/quickstart/pyramid_vision_llama_digits.py
"""

_base_ = ['vision_llama_digits.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='PyramidVisionLLaMA',
        arch=dict(
            embed_dims=(24, 48, 96),
            depths=(2, 2, 2),
            num_heads=(2, 4, 6),
            patch_sizes=(2, 2, 2),
            window_sizes=(4, 4, 4),
            sr_ratios=(4, 2, 1),
            feedforward_channels=(64, 128, 256),
        ),
        img_size=32,
        anchor=32,
        out_indices=(2,),
        out_type='avg_featmap',
        layer_scale_init_value=0.0,
    ),
    head=dict(in_channels=96),
)
