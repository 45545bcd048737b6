"""VisionLLaMA micro on CIFAR-10, trained for its weights and not for a comparison.

Data:     CIFAR-10 in data/cifar10/{train,test}/CLASS/*, see docs/study.md; crops and flips alone
Model:    as visionllama-micro_cifar10.py, no drop path; AS2DRoPE scales the positions of the smaller pictures
Schedule: 20 epochs x 781 iterations x batch 64, the first 12 at 24 pixels, which take half the time; compiled
Command:  python tools/train.py configs/mmpretrain/study/visionllama-micro-20e_cifar10.py
"""

_base_ = ['visionllama-micro_cifar10.py']

model = dict(backbone=dict(drop_path_rate=0.0))
compile = True

load = dict(type='LoadImageFromFile')
crop = dict(type='RandomCrop', crop_size=32, padding=4)
flip = dict(type='RandomFlip', prob=0.5, direction='horizontal')
reduce = dict(type='Resize', scale=24, interpolation='area')
pack = dict(type='PackInputs')
train_dataloader = dict(dataset=dict(pipeline=[load, crop, flip, reduce, pack]))

epochs = 20
warmup = 1
custom_hooks = [
    dict(type='SwitchRecipeHook', schedule=[dict(action_epoch=13, train_pipeline=[load, crop, flip, pack])])
]
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=warmup, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=warmup, end=epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=epochs, val_interval=4)
default_hooks = dict(logger=dict(interval=100), checkpoint=dict(interval=1))
