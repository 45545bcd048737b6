# UperNet over a plain backbone: four blocks' maps, all at stride 16, rescaled to strides 4, 8, 16 and 32. Configs set the
# backbone and embed_dims in neck and heads.
_base_ = ['upernet.py']

model = dict(
    # positions are rescaled from every size onto the grid at 224, what the weights were pre-trained at
    backbone=dict(out_type='featmap', out_indices=(3, 5, 7, 11), final_norm=False, img_size=512, anchor=224),
    neck=dict(
        type='Feature2Pyramid', embed_dim=768, rescales=[4, 2, 1, 0.5], norm_cfg=dict(type='SyncBN', requires_grad=True)
    ),
    test_cfg=dict(mode='slide'),
)
