# iLLaMA-T as the released code trains it: the soft mask multiplies the attention weights after the softmax, without
# renormalisation, so that no row but the last sums to 1 and earlier tokens still feel later ones.
# Paper: top-1 75.0 %, which is this model's. Not reproduced here. Model: 5.70 M parameters, 1.25 GMACs at 224.
# Schedule: 8 GPUs x 128 x 4 accumulated = 4096 images; floor(1,281,167 / 1024) = 1251 iterations x 300 epochs. An
# iteration of the Runner is one batch of 1024, and batches of two epochs may make one step: 375,300 iterations are
# 93,825 steps of the optimizer (the release drops the rest of each epoch: 93,600).
#
#     tools/dist_train.sh configs/mmpretrain/illama/illama-tiny-p16_8xb128-accum4-300e_in1k_released.py 8
_base_ = ['illama-tiny-p16_8xb128-accum4-300e_in1k.py']

model = dict(backbone=dict(mask_mode='multiplicative', rope_scale='none'))
