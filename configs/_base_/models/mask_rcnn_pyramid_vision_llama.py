# Mask R-CNN with FPN over the four stages of Pyramid VisionLLaMA. Configs set arch, drop_path_rate, init_cfg.checkpoint
# and the neck's in_channels.
_base_ = ['mask_rcnn.py']

model = dict(
    backbone=dict(
        type='PyramidVisionLLaMA',
        arch='base',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.2,
        layer_scale_init_value=0.0,  # as in pre-training
        anchor=224,  # the resolution of the weights; any other is interpolated onto it (docs/detection.md)
        init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.'),
    ),
    neck=dict(type='FPN', in_channels=[96, 192, 384, 768], out_channels=256, num_outs=5),
)
