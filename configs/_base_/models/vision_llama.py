# Plain VisionLLaMA classifier with a class token; configs set arch, drop_path_rate and the head's in_channels.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionLLaMA',
        arch='small',
        img_size=224,
        patch_size=16,
        drop_path_rate=0.05,
        drop_path_mode='uniform',  # DeiT III: the same rate in every block
        layer_scale_init_value=1e-4,
        # Positions are plain 2D RoPE at this resolution and interpolated at any other (eq. 4). It is the one the
        # weights are trained at, so it goes with the stage of training.
        anchor=224,
    ),
    neck=None,
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=1000,
        in_channels=384,
        # DeiT III's, whose settings the paper takes over: every class of a mixed image is fully present; mean over samples
        # and classes. The mixing ratios as targets instead, with mmpretrain's loss, which sums over the classes:
        # dict(_delete_=True, type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1 / 1000)
        loss=dict(type='BinarizedCrossEntropyLoss'),
        # not zeros, mmpretrain's default: LAMB's steps are proportional to the weights
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
    ),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
