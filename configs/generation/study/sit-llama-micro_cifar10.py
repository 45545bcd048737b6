"""SiT-LLaMA micro on CIFAR-10: dit-llama-micro_cifar10.py as a linear interpolant, sampled with an ODE in 25 Heun steps."""

_base_ = ['dit-llama-micro_cifar10.py']

model = dict(
    network=dict(learn_sigma=False),
    objective=dict(_delete_=True, type='LinearInterpolant'),
    sampler=dict(_delete_=True, type='ODESampler', method='heun2', num_steps=25),
)
