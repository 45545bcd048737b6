# DiT-LLaMA-XL/2 as the release trained and sampled it.
# Paper (Table 1, 250 DDPM steps): FID 9.84 without guidance, 2.42 with 1.5. Not reproduced here.
# Model: 674.67 M parameters, 118.62 GMACs at 256.
# Schedule: 2,401,920 iterations (480 epochs of 5,004) of 8 GPUs x 32 = 256 images.
# Guidance acts on the first three of the four latent channels, in all released DiT-LLaMA numbers.
#
#     tools/dist_train.sh configs/generation/dit_llama/dit-llama-xl-2_8xb32-2352k_imagenet-256_released.py 8
_base_ = ['dit-llama-xl-2_8xb32-2352k_imagenet-256.py']

model = dict(cfg_channels='first_three')
train_cfg = dict(max_iters=2401920)
