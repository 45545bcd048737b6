# ViTDet with VisionLLaMA-B as released: base-wide, positions of the global blocks not scaled, windows that attend to
# their padding, pictures padded to 1024 x 1024 with 114 before their normalisation (zeros after it), other crops in
# place of those whose objects are all filtered out, 137,250 iterations with the rate divided by 10 at 102,937 and
# 125,812, and 250 iterations of warm-up. The release trains in float16, with an
# optimizer constructor of its own that makes the same groups; all else as in the config this one inherits from.
# Paper (Table 6): box AP 52.2, mask AP 46.3. Not reproduced here.
# Model: 280.68 M parameters, 1529.19 GMACs at 1024 (1000 boxes, 100 masks).
# Schedule: 8 GPUs x 4 x 2 accumulated = 64 images; 137,250 iterations of 32 images, 68,625 steps of the optimizer: 37.5
# epochs of the 117,266 images with objects.
# Weights: init_cfg.checkpoint; others with --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
#     tools/dist_train.sh configs/mmdet/vitdet/visionllama-base-p16_mae-800e-pre_vitdet_8xb4-accum2-36e_coco-1024px_released.py 8
_base_ = ['visionllama-base-p16_mae-800e-pre_vitdet_8xb4-accum2-36e_coco-1024px.py']

model = dict(
    backbone=dict(
        arch='base-wide',
        rope_cfg=dict(scale='none'),
        mask_padding=False,
        init_cfg=dict(checkpoint='work_dirs/mae_visionllama-base-p16_8xb512-amp-800e_in1k_released/epoch_800.pth'),
    ),
)

# boxes are clipped at the padded square: img_shape is 1024 x 1024
pad = dict(type='Pad', size=_base_.image_size, pad_val=dict(img=(114, 114, 114)))
filter_boxes = dict(_base_.filter_boxes, keep_empty=True)
train_pipeline = [*_base_.augment, filter_boxes, pad, dict(type='PackDetInputs')]
test_pipeline = [*_base_.resize, pad, *_base_.pack]
train_dataloader = dict(
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True), dataset=dict(pipeline=train_pipeline)
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=137250, milestones=[102937, 125812], gamma=0.1),
]
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=137250, val_interval=11000)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=5490), logger=dict(log_metric_by_epoch=False))
log_processor = dict(by_epoch=False)
