# The study's classifier: VisionLLaMA of 0.7 million parameters, pooled, no class token. Sizes, patch and classes are the data's.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionLLaMA',
        arch=dict(embed_dims=96, num_layers=6, num_heads=3, feedforward_channels=256),
        with_cls_token=False,
        out_type='avg_featmap',
        drop_path_rate=0.05,
        layer_scale_init_value=0.0,
    ),
    head=dict(
        type='LinearClsHead',
        in_channels=96,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
)
