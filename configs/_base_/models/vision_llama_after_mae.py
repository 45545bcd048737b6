# Classifier on a pre-trained MAE encoder: mean of the patch tokens, then a LayerNorm that is new. No class token, no
# LayerScale. Configs set arch, init_cfg.checkpoint and the head's in_channels.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionLLaMA',
        arch='base',
        img_size=224,
        anchor=224,
        patch_size=16,
        out_type='avg_featmap',
        final_norm=False,
        with_cls_token=False,
        layer_scale_init_value=0.0,
        init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.'),
    ),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=768,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
