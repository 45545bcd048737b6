"""VisionLLaMA micro on photographs of groceries, 72 pixels: an arm of the study, and what the others of them inherit.

Data:     Grocery Store Dataset (43 coarse classes) in data/grocery_store/{train,test}/CLASS/*.jpg, see docs/study.md
Model:    embed_dims 96, 6 blocks, 3 heads, patch 12 on 72 x 72 (6 x 6 tokens), pooled, no class token
Schedule: 60 epochs x 45 iterations x batch 64
Command:  python tools/train.py configs/mmpretrain/study/visionllama-micro_grocery.py
"""

_base_ = [
    '../../_base_/models/vision_llama_micro.py',
    '../../_base_/datasets/grocery_72.py',
    '../../_base_/schedules/study_bs64_adamw_60e.py',
]

model = dict(backbone=dict(img_size=72, anchor=72, patch_size=12), head=dict(num_classes=43))
