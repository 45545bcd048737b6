# DiT-LLaMA-L/4 on ImageNet at 256 x 256.
# Paper (Table 1, 250 DDPM steps): FID 40.32 without guidance, 18.64 with 1.5. Not reproduced here.
# Model: 464.16 M parameters, 20.10 GMACs at 256.
# The paper prints the baseline's 458 M: SwiGLU's hidden size is rounded up to a multiple of 256.
# Schedule: 400,000 iterations of 8 GPUs x 32 = 256 images; 80 passes over 1,281,167 images.
#
#     tools/dist_train.sh configs/generation/dit_llama/dit-llama-l-4_8xb32-400k_imagenet-256.py 8
_base_ = [
    '../../_base_/models/dit_llama.py',
    '../../_base_/datasets/imagenet_latents_256.py',
    '../../_base_/schedules/imagenet_bs256_adamw_400k.py',
    '../../_base_/generation_runtime.py',
]

model = dict(network=dict(arch='L'))
