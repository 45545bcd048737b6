# COCO 2017 with large-scale jitter: resized to 0.1 ... 2 times 1024 and cropped to at most 1024 x 1024; the model pads
# to the full square (pad_size_divisor). 8 GPUs x 4. Steps that a config changes have names.
_base_ = ['coco_instance.py']

image_size = (1024, 1024)
augment = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomResize', scale=image_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type='RandomCrop',
        crop_type='absolute_range',
        crop_size=image_size,
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
]
# a crop without any object is a training image like others (keep_empty=True would drop those into which the box of an
# object reaches, but not its mask)
filter_boxes = dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2), keep_empty=False)
train_pipeline = [*augment, filter_boxes, dict(type='PackDetInputs')]

resize = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=image_size, keep_ratio=True)]
pack = [
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
test_pipeline = [*resize, *pack]

# every image becomes the same square: nothing to gain from batches of one aspect ratio
train_dataloader = dict(batch_size=4, num_workers=8, batch_sampler=None, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
