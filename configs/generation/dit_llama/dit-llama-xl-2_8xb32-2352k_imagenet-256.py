# DiT-LLaMA-XL/2 on ImageNet at 256 x 256.
# Paper (Table 1, 250 DDPM steps): FID 9.84 without guidance, 2.42 with 1.5. Not reproduced here.
# Model: 674.67 M parameters, 118.62 GMACs at 256.
# Schedule: 2,352,000 iterations of 8 GPUs x 32 = 256 images; 470 passes over 1,281,167 images.
# The published weights are named 2400k; 480 epochs are 2,401,920 iterations: ..._released.py
#
#     tools/dist_train.sh configs/generation/dit_llama/dit-llama-xl-2_8xb32-2352k_imagenet-256.py 8
_base_ = [
    '../../_base_/models/dit_llama.py',
    '../../_base_/datasets/imagenet_latents_256.py',
    '../../_base_/schedules/imagenet_bs256_adamw_400k.py',
    '../../_base_/generation_runtime.py',
]

model = dict(network=dict(arch='XL', patch_size=2))
train_cfg = dict(max_iters=2352000)
default_hooks = dict(checkpoint=dict(interval=400000))  # some 11 GB each
