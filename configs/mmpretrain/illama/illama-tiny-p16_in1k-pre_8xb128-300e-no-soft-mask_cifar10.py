# iLLaMA-T transferred to CIFAR-10 at 224 without a soft mask, causal from the first iteration.
# Paper: top-1 97.9 % (with soft mask 97.9 %). Not reproduced here.
# Model: 5.51 M parameters, 1.25 GMACs at 224.
# Schedule: 8 GPUs x 128 = 1024 images; floor(50,000 / 1024) = 48 iterations x 300 epochs.
#
#     tools/dist_train.sh configs/mmpretrain/illama/illama-tiny-p16_in1k-pre_8xb128-300e-no-soft-mask_cifar10.py 8
_base_ = ['illama-tiny-p16_in1k-pre_8xb128-300e_cifar10.py']

custom_hooks = []
