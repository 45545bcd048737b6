# Pyramid VisionLLaMA classifier with GAP; configs set arch, drop_path_rate and the head's in_channels.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='PyramidVisionLLaMA',
        arch='small',
        img_size=224,
        out_indices=(3,),
        out_type='avg_featmap',  # norm of all tokens, then their mean
        drop_path_rate=0.2,
        layer_scale_init_value=0.0,  # Table 13, column D.2
        # Every stage's positions are plain 2D RoPE at this resolution and interpolated at any other (eq. 4).
        anchor=224,
    ),
    neck=None,
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=512,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
    ),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
