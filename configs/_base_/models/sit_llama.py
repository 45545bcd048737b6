# SiT-LLaMA (sections A.1 and D.11): linear interpolant, velocity. Half of the head is unused (return_sigma), as in the
# published weights and parameter counts. The ODE of Table 9 is sampler=dict(_delete_=True, type='ODESampler').
model = dict(
    type='ImageGenerator',
    network=dict(
        type='DiTLLaMA',
        arch='B',
        patch_size=2,
        num_classes=1000,
        label_drop_prob=0.1,
        anchor=32,
        return_sigma=False,
    ),
    objective=dict(type='LinearInterpolant'),
    sampler=dict(type='SDESampler', num_steps=250),
    codec=dict(type='VAECodec', pretrained='stabilityai/sd-vae-ft-ema'),
    cfg_scale=1.0,
)
