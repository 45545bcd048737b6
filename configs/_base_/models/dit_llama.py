# DiT-LLaMA (sections 4.1 and D.10): DDPM with 1000 steps, beta from 1e-4 to 0.02, learned variance; 250 steps sampled.
model = dict(
    type='ImageGenerator',
    network=dict(type='DiTLLaMA', arch='B', patch_size=4, num_classes=1000, label_drop_prob=0.1, anchor=32),
    objective=dict(type='GaussianDiffusion', num_timesteps=1000, beta_start=1e-4, beta_end=0.02),
    sampler=dict(type='DDPMSampler', num_steps=250),
    codec=dict(type='VAECodec', pretrained='stabilityai/sd-vae-ft-ema'),
    cfg_scale=1.0,  # 1.5 in the rows with guidance
)
