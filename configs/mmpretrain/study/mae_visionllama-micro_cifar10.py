"""MAE with VisionLLaMA micro on CIFAR-10, labels unused: an arm of the study.

Data:     CIFAR-10 in data/cifar10/train/CLASS/*, see docs/study.md; crops of padded pictures and flips
Model:    the encoder of visionllama-micro_cifar10.py, mask ratio 0.75 (16 of 64 patches seen), decoder of 2 blocks of 64
Schedule: 10 epochs x 390 iterations x batch 128
Command:  python tools/train.py configs/mmpretrain/study/mae_visionllama-micro_cifar10.py
"""

_base_ = ['../../_base_/datasets/cifar10_folders_32.py', '../../_base_/default_runtime.py']

patch_size = 4
model = dict(
    type='MAE',
    backbone=dict(
        type='MAEVisionLLaMA',
        arch=dict(embed_dims=96, num_layers=6, num_heads=3, feedforward_channels=256),
        img_size=32,
        anchor=32,
        patch_size=patch_size,
        mask_ratio=0.75,
    ),
    neck=dict(
        type='MAEPretrainDecoder',
        num_patches=64,
        patch_size=patch_size,
        embed_dim=96,
        decoder_embed_dim=64,
        decoder_depth=2,
        decoder_num_heads=4,
    ),
    head=dict(
        type='MAEPretrainHead',
        norm_pix=True,
        patch_size=patch_size,
        loss=dict(type='PixelReconstructionLoss', criterion='L2'),
    ),
    init_cfg=[
        dict(type='Xavier', layer='Linear', distribution='uniform'),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ],
)
data_preprocessor = dict(
    _delete_=True,
    type='SelfSupDataPreprocessor',
    mean=_base_.data_preprocessor.mean,
    std=_base_.data_preprocessor.std,
    to_rgb=True,
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=128, collate_fn=dict(type='default_collate'), dataset=dict(pipeline=train_pipeline))
val_dataloader = val_evaluator = test_dataloader = test_evaluator = None

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={name: dict(decay_mult=0.0) for name in ('cls_token', 'mask_token', 'pos_embed')},
    ),
)
epochs = 10
warmup = 1
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=warmup, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=0.0, begin=warmup, end=epochs, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=epochs)
default_hooks = dict(logger=dict(interval=30), checkpoint=dict(interval=2, max_keep_ckpts=1))
