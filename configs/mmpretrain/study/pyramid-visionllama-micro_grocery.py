"""Pyramid VisionLLaMA micro on photographs of groceries, 72 pixels: an arm of the study.

Data:     as visionllama-micro_grocery.py
Model:    3 stages of 32, 64, 128 channels and 2 blocks each; 24 x 24, 12 x 12 and 6 x 6 tokens, 6 x 6 keys in every GSA
Schedule: as visionllama-micro_grocery.py
Command:  python tools/train.py configs/mmpretrain/study/pyramid-visionllama-micro_grocery.py
"""

_base_ = ['visionllama-micro_grocery.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='PyramidVisionLLaMA',
        arch=dict(
            embed_dims=(32, 64, 128),
            depths=(2, 2, 2),
            num_heads=(2, 4, 8),
            patch_sizes=(3, 2, 2),
            window_sizes=(6, 6, 6),
            sr_ratios=(4, 2, 1),
            feedforward_channels=(88, 172, 344),
        ),
        img_size=72,
        anchor=72,
        out_indices=(2,),
        out_type='avg_featmap',
        drop_path_rate=0.05,
        layer_scale_init_value=0.0,
    ),
    head=dict(in_channels=128),
)
