# ViTDet: Mask R-CNN with the simple feature pyramid over the last map of a plain backbone; four global blocks, the others
# in windows of 14 x 14 tokens. Configs set arch, window_block_indexes and init_cfg.checkpoint.
_base_ = ['mask_rcnn.py']

norm_cfg = dict(type='VisionLLaMALN2d', eps=1e-6)
model = dict(
    # Every image becomes the square that was trained on, in testing too: positions follow the padded input.
    data_preprocessor=dict(pad_size_divisor=1024),
    backbone=dict(
        type='VisionLLaMA',
        arch='base',
        img_size=1024,
        patch_size=16,
        out_type='featmap',
        final_norm=False,
        with_cls_token=False,
        drop_path_rate=0.1,
        layer_scale_init_value=0.0,
        anchor=224,  # the resolution of the weights; any other is interpolated onto it (docs/detection.md)
        window_size=14,
        window_block_indexes=(0, 1, 3, 4, 6, 7, 9, 10),
        init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.'),
    ),
    neck=dict(type='VisionLLaMASimpleFPN', in_channels=768, out_channels=256, num_outs=5),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)
