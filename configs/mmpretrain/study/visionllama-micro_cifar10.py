"""VisionLLaMA micro on CIFAR-10: an arm of the study.

Data:     CIFAR-10 in data/cifar10/{train,test}/CLASS/*, see docs/study.md
Model:    embed_dims 96, 6 blocks, 3 heads, patch 4 on 32 x 32 (8 x 8 tokens), pooled, no class token
Schedule: 60 epochs x 781 iterations x batch 64 on all images; the study trains on a tenth of them
Command:  python tools/train.py configs/mmpretrain/study/visionllama-micro_cifar10.py
"""

_base_ = ['../../_base_/datasets/cifar10_folders_32.py', '../../_base_/schedules/study_bs64_adamw_60e.py']

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionLLaMA',
        arch=dict(embed_dims=96, num_layers=6, num_heads=3, feedforward_channels=256),
        img_size=32,
        anchor=32,
        patch_size=4,
        with_cls_token=False,
        out_type='avg_featmap',
        drop_path_rate=0.05,
        layer_scale_init_value=0.0,
    ),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=96,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
)
