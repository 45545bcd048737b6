# iLLaMA-S trained with 8-bit weights and activations in attention and feed-forward of all blocks.
# Paper: top-1 77.4 % (fp32: 79.9 %) with Q-ViT's learned quantisers. Not reproduced here; ours are torchao's (a scale
# per output channel, a dynamic one per token). Model: 22.02 M parameters, 4.60 GMACs at 224.
# tools/analysis_tools/quantize.py makes the 8-bit model from a checkpoint of this training.
# Schedule: 8 GPUs x 128 x 4 accumulated = 4096 images; floor(1,281,167 / 1024) = 1251 iterations x 300 epochs. An
# iteration of the Runner is one batch of 1024, and batches of two epochs may make one step: 375,300 iterations are
# 93,825 steps of the optimizer.
#
#     tools/dist_train.sh configs/mmpretrain/illama/illama-small-p16_8xb128-accum4-300e-qat-int8_in1k.py 8
_base_ = ['illama-small-p16_8xb128-accum4-300e_in1k.py']

optim_wrapper = dict(optimizer=dict(lr=4e-3))
custom_hooks = [*_base_.custom_hooks, dict(type='QuantizationAwareTrainingHook')]
