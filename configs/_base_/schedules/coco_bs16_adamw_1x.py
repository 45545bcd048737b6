# Mask R-CNN, 12 epochs at batch 16: the rates of section D.8, divided by 10 after epochs 8 and 11.
_base_ = ['coco_bs16_adamw_3x.py']

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
train_cfg = dict(max_epochs=12, val_interval=1)
