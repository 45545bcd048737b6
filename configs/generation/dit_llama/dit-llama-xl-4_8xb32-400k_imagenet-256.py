# DiT-LLaMA-XL/4 on ImageNet at 256 x 256.
# Paper (Table 1, 250 DDPM steps): FID 35.99 without guidance, 18.69 with 1.5. Not reproduced here.
# The paper's guided rows of XL/4 nearly repeat those of L/4, DiT and DiT-LLaMA alike.
# Model: 674.84 M parameters, 29.04 GMACs at 256.
# Schedule: 400,000 iterations of 8 GPUs x 32 = 256 images; 80 passes over 1,281,167 images.
#
#     tools/dist_train.sh configs/generation/dit_llama/dit-llama-xl-4_8xb32-400k_imagenet-256.py 8
_base_ = [
    '../../_base_/models/dit_llama.py',
    '../../_base_/datasets/imagenet_latents_256.py',
    '../../_base_/schedules/imagenet_bs256_adamw_400k.py',
    '../../_base_/generation_runtime.py',
]

model = dict(network=dict(arch='XL'))
