"""DiT micro on CIFAR-10, the baseline of dit-llama-micro_cifar10.py: sines and cosines for positions, GELU."""

_base_ = ['dit-llama-micro_cifar10.py']

model = dict(network=dict(position='sincos', ffn_cfg=dict(type='gelu', approximate='tanh')))
