"""MAE with VisionLLaMA micro and the released code's feed-forward layers, four times as wide, in two blocks.

Model:    2 blocks with hidden 1,024 have as many parameters as 6 with 256, the paper's (docs/mae.md, "Which size is meant?")
"""

_base_ = ['mae_visionllama-micro_cifar10.py']

model = dict(backbone=dict(arch=dict(num_layers=2, feedforward_channels=1024)))
