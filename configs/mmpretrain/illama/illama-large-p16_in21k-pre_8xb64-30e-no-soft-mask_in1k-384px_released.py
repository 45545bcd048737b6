# iLLaMA-L fine-tuned at 384 as the released code does it: the mask multiplies the weights after the softmax, and the
# rotary positions are not rescaled. For weights of the release or of
# illama-large-p16_8xb128-accum4-90e_in21k_released.py.
# Paper: top-1 86.0 % (the log: 85.86 %, best 85.95 %). Not reproduced here. Model:
# 310.83 M parameters, 194.70 GMACs at 384.
# Schedule: 8 GPUs x 64 = 512 images; floor(1,281,167 / 512) = 2502 iterations x 30 epochs, no warm-up.
#
#     tools/dist_train.sh configs/mmpretrain/illama/illama-large-p16_in21k-pre_8xb64-30e-no-soft-mask_in1k-384px_released.py 8
_base_ = ['illama-large-p16_in21k-pre_8xb64-30e-no-soft-mask_in1k-384px.py']

model = dict(
    backbone=dict(
        mask_mode='multiplicative',
        rope_scale='none',
        init_cfg=dict(checkpoint='work_dirs/illama-large-p16_8xb128-accum4-90e_in21k_released/epoch_90.pth'),
    ),
)
