"""A small Pyramid VisionLLaMA on crops of the digit scenes: pre-training for segmentation and detection in small.

Data:     python -m mmvisionllama.datasets.digit_scenes data/digit_crops --crops   (8,000 training, 800 validation crops)
Model:    4 stages of 24, 48, 96, 96 channels; 16 x 16 to 2 x 2 tokens at 64 x 64 pixels
Schedule: 5 epochs x 250 iterations x batch 32
Command:  python tools/train.py configs/mmpretrain/quickstart/pyramid_vision_llama_digit_crops.py
"""

_base_ = ['vision_llama_digits.py']

image_size = 64

model = dict(
    backbone=dict(
        _delete_=True,
        type='PyramidVisionLLaMA',
        arch=dict(
            embed_dims=(24, 48, 96, 96),
            depths=(2, 2, 2, 2),
            num_heads=(2, 4, 6, 6),
            window_sizes=(8, 8, 8, 8),
            sr_ratios=(8, 4, 2, 1),
            feedforward_channels=(64, 128, 256, 256),
        ),
        img_size=image_size,
        anchor=image_size,
        out_type='avg_featmap',
        layer_scale_init_value=0.0,
    ),
    head=dict(in_channels=96),
)
# as the preprocessors of the scenes' quickstarts
data_preprocessor = dict(num_classes=10, mean=[127.5] * 3, std=[64.0] * 3, to_rgb=True)

pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
data_root = 'data/digit_crops'
train_dataloader = dict(batch_size=32, dataset=dict(data_root=data_root, data_prefix='train', pipeline=pipeline))
val_dataloader = dict(batch_size=200, dataset=dict(data_root=data_root, data_prefix='val', pipeline=pipeline))
test_dataloader = val_dataloader

epochs = 5
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=1, end=epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=epochs, val_interval=1)
default_hooks = dict(logger=dict(interval=50))
