# iLLaMA classifier: causal attention, class token last. Configs set arch, drop_path_rate, the mixing and the head's
# in_channels; the soft mask of the first epochs is a hook of theirs.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='iLLaMA',
        arch='tiny',
        img_size=224,  # size of the position embedding
        anchor=224,  # rotary positions are rescaled onto this resolution
        patch_size=16,
        drop_path_rate=0.0,
    ),
    neck=None,
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=192,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
    ),
)
