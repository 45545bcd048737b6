# iLLaMA-T transferred to CIFAR-100 at 224, linear soft mask over the first 50 epochs.
# Paper: top-1 85.5 % (without soft mask 84.8 %, ViT-T 85.5 %). Not reproduced here.
# Model: 5.53 M parameters, 1.25 GMACs at 224.
# lr 2e-3, warm-up 50 epochs, drop-path 0. The paper does not state wd and mixing: 0.05, Mixup 0.8 and CutMix 1.0 are the
# defaults of a script in the release's history.
# Schedule: 8 GPUs x 128 = 1024 images; floor(50,000 / 1024) = 48 iterations x 300 epochs.
#
#     tools/dist_train.sh configs/mmpretrain/illama/illama-tiny-p16_in1k-pre_8xb128-300e_cifar100.py 8
_base_ = [
    '../../_base_/models/illama.py',
    '../../_base_/datasets/cifar100_rand_augment_224.py',
    '../../_base_/schedules/imagenet_bs4096_adamw_illama_300e.py',
    '../../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/illama-tiny-p16_8xb128-accum4-300e_in1k/epoch_300.pth',
            prefix='backbone.',
        )
    ),
    head=dict(num_classes=100),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
custom_hooks = [dict(type='SoftMaskHook', schedule='linear', end=50)]

optim_wrapper = dict(optimizer=dict(lr=2e-3), accumulative_counts=1)
warmup = dict(_base_.warmup, end=50)
cosine = dict(_base_.cosine, begin=50)
param_scheduler = [warmup, cosine]
