# UperNet over the four stages of the pyramid, strides 4, 8, 16 and 32, each through a norm of its own. Configs set arch,
# drop_path_rate and the heads' in_channels.
_base_ = ['upernet.py']

model = dict(
    backbone=dict(
        type='PyramidVisionLLaMA',
        arch='base',
        img_size=512,
        # positions are rescaled from every size onto the stages' grids at 224, what the weights were pre-trained at
        anchor=224,
        out_type='featmap',
        out_indices=(0, 1, 2, 3),
        norm_after_stage=True,
        layer_scale_init_value=0.0,
        init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.'),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768], channels=512),
    auxiliary_head=dict(in_channels=384),
)
