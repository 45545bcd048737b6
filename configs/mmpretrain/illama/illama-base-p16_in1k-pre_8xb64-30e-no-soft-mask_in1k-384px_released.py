# iLLaMA-B fine-tuned at 384 as the released code does it: the mask multiplies the weights after the softmax, and the
# rotary positions are not rescaled. For weights of the release or of
# illama-base-p16_8xb128-accum4-300e_in1k_released.py.
# Paper: top-1 83.0 % (the log: 82.998 %). Not reproduced here. Model: 86.79 M parameters, 55.48 GMACs at 384.
# Schedule: 8 GPUs x 64 = 512 images; floor(1,281,167 / 512) = 2502 iterations x 30 epochs, no warm-up.
#
#     tools/dist_train.sh configs/mmpretrain/illama/illama-base-p16_in1k-pre_8xb64-30e-no-soft-mask_in1k-384px_released.py 8
_base_ = ['illama-base-p16_in1k-pre_8xb64-30e-no-soft-mask_in1k-384px.py']

model = dict(
    backbone=dict(
        mask_mode='multiplicative',
        rope_scale='none',
    ),
)
load_from = 'work_dirs/illama-base-p16_8xb128-accum4-300e_in1k_released/epoch_300.pth'
