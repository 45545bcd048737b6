# SiT-LLaMA on handwritten digits in pixel space: the same network and schedule as dit_llama_digits.py, trained as a
# linear interpolant and sampled with an adaptive ODE.
#
#     python tools/train.py configs/generation/quickstart/sit_llama_digits.py
_base_ = ['dit_llama_digits.py']

model = dict(
    network=dict(learn_sigma=False),
    objective=dict(_delete_=True, type='LinearInterpolant'),
    sampler=dict(_delete_=True, type='ODESampler'),
)
custom_hooks = [
    dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=1e-2),
    dict(type='SampleHook', interval=500, classes=tuple(range(10)), sampler='ode-heun'),
]
