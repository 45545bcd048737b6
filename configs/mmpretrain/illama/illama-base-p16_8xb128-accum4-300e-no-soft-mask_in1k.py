# iLLaMA-B without a soft mask, causal from the first iteration: the ablation of the soft mask.
# Paper: top-1 81.3 %, against 81.5 % with the constant soft mask over 50 epochs; all rows of that table warm up over 50
# epochs. Not reproduced here. Model: 86.50 M parameters, 17.56 GMACs at 224.
# Schedule: 8 GPUs x 128 x 4 accumulated = 4096 images; floor(1,281,167 / 1024) = 1251 iterations x 300 epochs. An
# iteration of the Runner is one batch of 1024, and batches of two epochs may make one step: 375,300 iterations are
# 93,825 steps of the optimizer.
#
#     tools/dist_train.sh configs/mmpretrain/illama/illama-base-p16_8xb128-accum4-300e-no-soft-mask_in1k.py 8
_base_ = ['illama-base-p16_8xb128-accum4-300e_in1k.py']

custom_hooks = []
