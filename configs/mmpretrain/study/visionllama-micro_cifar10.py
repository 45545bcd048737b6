"""VisionLLaMA micro on CIFAR-10: an arm of the study.

Data:     CIFAR-10 in data/cifar10/{train,test}/CLASS/*, see docs/study.md
Model:    embed_dims 96, 6 blocks, 3 heads, patch 4 on 32 x 32 (8 x 8 tokens), pooled, no class token
Schedule: 60 epochs x 781 iterations x batch 64 on all images; the study trains on a tenth of them
Command:  python tools/train.py configs/mmpretrain/study/visionllama-micro_cifar10.py
"""

_base_ = [
    '../../_base_/models/vision_llama_micro.py',
    '../../_base_/datasets/cifar10_folders_32.py',
    '../../_base_/schedules/study_bs64_adamw_60e.py',
]

model = dict(backbone=dict(img_size=32, anchor=32, patch_size=4), head=dict(num_classes=10))
