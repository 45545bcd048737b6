# SiT-XL/2 on ImageNet at 256 x 256, the baseline of SiT-LLaMA-XL/2.
# Paper (no guidance): FID 16.98 with the SDE (Table 8), 17.83 with the ODE (Table 9). Not reproduced here.
# Model: 674.83 M parameters, 118.62 GMACs at 256.
# Schedule: 400,000 iterations of 8 GPUs x 32 = 256 images; 80 passes over 1,281,167 images.
#
#     tools/dist_train.sh configs/generation/sit/sit-xl-2_8xb32-400k_imagenet-256.py 8
_base_ = [
    '../../_base_/models/sit_llama.py',
    '../../_base_/datasets/imagenet_latents_256.py',
    '../../_base_/schedules/imagenet_bs256_adamw_400k.py',
    '../../_base_/generation_runtime.py',
]

model = dict(network=dict(arch='XL', position='sincos', ffn_cfg=dict(type='gelu', approximate='tanh')))
