"""VisionLLaMA tiny on CIFAR-10 on a GPU, meant for weights and not trained yet.

Data:     as visionllama-tiny_cifar10.py
Model:    as visionllama-tiny_cifar10.py
Schedule: 180 epochs x 97 iterations x batch 512, bf16
Command:  python tools/train.py configs/mmpretrain/study/visionllama-tiny-180e_cifar10.py
"""

_base_ = ['visionllama-tiny_cifar10.py']

epochs = 180
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=5, end=epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=epochs, val_interval=10)
