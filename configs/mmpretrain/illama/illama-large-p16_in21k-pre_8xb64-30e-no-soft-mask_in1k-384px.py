# iLLaMA-L fine-tuned on ImageNet-1K at 384 from ImageNet-21K weights of illama-large-p16_8xb128-accum4-90e_in21k.py.
# Paper: top-1 86.0 % (the log: 85.86 %, best 85.95 %). Not reproduced here. Model:
# 310.83 M parameters, 194.70 GMACs at 384.
# Causal from the first iteration. lr 3.5e-5, wd 1e-8, drop-path 0.3, no Mixup, no CutMix.
# The position embedding is resampled to 24 x 24 and the rotary positions are rescaled onto the 14 x 14 of the first
# training.
# Evaluation resizes the whole image to 384 x 384, without a crop.
# Schedule: 8 GPUs x 64 = 512 images; floor(1,281,167 / 512) = 2502 iterations x 30 epochs, no warm-up.
#
#     tools/dist_train.sh configs/mmpretrain/illama/illama-large-p16_in21k-pre_8xb64-30e-no-soft-mask_in1k-384px.py 8
_base_ = [
    '../../_base_/models/illama.py',
    '../../_base_/datasets/imagenet_rand_augment_384.py',
    '../../_base_/schedules/imagenet_bs512_adamw_illama_30e.py',
    '../../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        arch='large',
        img_size=384,
        drop_path_rate=0.3,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/illama-large-p16_8xb128-accum4-90e_in21k/epoch_90.pth',
            prefix='backbone.',
        ),
    ),
    head=dict(in_channels=1024),
)
optim_wrapper = dict(optimizer=dict(lr=3.5e-5))
