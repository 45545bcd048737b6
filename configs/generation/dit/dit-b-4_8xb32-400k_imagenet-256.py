# DiT-B/4 on ImageNet at 256 x 256, the baseline of DiT-LLaMA-B/4.
# Paper (Table 1, 250 DDPM steps): FID 68.38 without guidance, 45.38 with 1.5. Not reproduced here.
# Model: 130.43 M parameters, 5.57 GMACs at 256.
# Schedule: 400,000 iterations of 8 GPUs x 32 = 256 images; 80 passes over 1,281,167 images.
#
#     tools/dist_train.sh configs/generation/dit/dit-b-4_8xb32-400k_imagenet-256.py 8
_base_ = [
    '../../_base_/models/dit_llama.py',
    '../../_base_/datasets/imagenet_latents_256.py',
    '../../_base_/schedules/imagenet_bs256_adamw_400k.py',
    '../../_base_/generation_runtime.py',
]

model = dict(network=dict(arch='B', position='sincos', ffn_cfg=dict(type='gelu', approximate='tanh')))
