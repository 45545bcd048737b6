# iLLaMA-T transferred to CIFAR-100 at 224 as the released code does it: the mask multiplies the weights after the softmax,
# and the rotary positions are not rescaled. For weights of the release or of
# illama-tiny-p16_8xb128-accum4-300e_in1k_released.py.
# Paper: top-1 85.5 % (without soft mask 84.8 %, ViT-T 85.5 %). Not reproduced here.
# Model: 5.53 M parameters, 1.25 GMACs at 224.
# Schedule: 8 GPUs x 128 = 1024 images; floor(50,000 / 1024) = 48 iterations x 300 epochs.
#
#     tools/dist_train.sh configs/mmpretrain/illama/illama-tiny-p16_in1k-pre_8xb128-300e_cifar100_released.py 8
_base_ = ['illama-tiny-p16_in1k-pre_8xb128-300e_cifar100.py']

model = dict(
    backbone=dict(
        mask_mode='multiplicative',
        rope_scale='none',
        init_cfg=dict(checkpoint='work_dirs/illama-tiny-p16_8xb128-accum4-300e_in1k_released/epoch_300.pth'),
    ),
)
