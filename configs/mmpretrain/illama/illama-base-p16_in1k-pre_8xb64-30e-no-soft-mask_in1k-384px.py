# iLLaMA-B fine-tuned on ImageNet-1K at 384 from ImageNet-1K weights of illama-base-p16_8xb128-accum4-300e_in1k.py.
# Paper: top-1 83.0 % (the log: 82.998 %). Not reproduced here. Model: 86.79 M parameters, 55.48 GMACs at 384.
# Backbone and head start from those weights. Causal from the first iteration. lr 8e-5, wd 1e-8, drop-path 0.8, no Mixup,
# no CutMix.
# The position embedding is resampled to 24 x 24 and the rotary positions are rescaled onto the 14 x 14 of the first
# training.
# Evaluation resizes the whole image to 384 x 384, without a crop.
# Schedule: 8 GPUs x 64 = 512 images; floor(1,281,167 / 512) = 2502 iterations x 30 epochs, no warm-up.
#
#     tools/dist_train.sh configs/mmpretrain/illama/illama-base-p16_in1k-pre_8xb64-30e-no-soft-mask_in1k-384px.py 8
_base_ = [
    '../../_base_/models/illama.py',
    '../../_base_/datasets/imagenet_rand_augment_384.py',
    '../../_base_/schedules/imagenet_bs512_adamw_illama_30e.py',
    '../../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        arch='base',
        img_size=384,
        drop_path_rate=0.8,
    ),
    head=dict(in_channels=768),
)
# the classes are the same: the head goes on, too
load_from = 'work_dirs/illama-base-p16_8xb128-accum4-300e_in1k/epoch_300.pth'
optim_wrapper = dict(optimizer=dict(lr=8e-5))
