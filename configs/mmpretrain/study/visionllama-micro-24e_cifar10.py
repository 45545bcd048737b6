"""VisionLLaMA micro on CIFAR-10 for four epochs more, the zoo's most accurate classifier of it.

Data:     CIFAR-10 in data/cifar10/{train,test}/CLASS/*, see docs/study.md; crops and flips alone
Model:    as visionllama-micro-20e_cifar10.py
Schedule: 24 epochs x 781 iterations x batch 64, the first 14 at 24 pixels; compiled
Command:  python tools/train.py configs/mmpretrain/study/visionllama-micro-24e_cifar10.py
"""

_base_ = ['visionllama-micro-20e_cifar10.py']

epochs = 24
warmup = 1
custom_hooks = [
    dict(
        type='SwitchRecipeHook',
        schedule=[dict(action_epoch=15, train_pipeline=[_base_.load, _base_.crop, _base_.flip, _base_.pack])],
    )
]
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=warmup, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=warmup, end=epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=epochs)
