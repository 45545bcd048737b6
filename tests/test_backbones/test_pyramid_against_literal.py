"""The pyramid backbone computes what a literal implementation (complex RoPE, softmax written out) computes."""

from pathlib import Path

import torch
from torch import nn

from mmvisionllama.backbones import PyramidVisionLLaMA


def test_same_as_literal(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / 'benchmarks'))
    from literal_pyramid import LiteralPyramidVisionLLaMA

    dims, depths, heads, hidden = (8, 8, 16, 16), (2, 2, 2, 2), (1, 1, 2, 2), (16,) * 4
    arch = dict(embed_dims=dims, depths=depths, num_heads=heads, feedforward_channels=hidden)
    model = PyramidVisionLLaMA(arch, layer_scale_init_value=0.1).eval()
    literal = LiteralPyramidVisionLLaMA(dims, depths, heads, hidden)
    rules = ('patch_embeds', 'patches'), ('projection', '0'), ('norms.3', 'norm')
    block_rules = ('ln', 'norm'), ('ls1.weight', 'gamma1'), ('ls2.weight', 'gamma2'), ('ffn.', '')
    weights = {}
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.3)
        if name.startswith('patch_embeds'):
            name = name.replace('.norm.', '.1.')
        for old, new in block_rules if name.startswith('stages') else rules:
            name = name.replace(old, new)
        weights[name] = parameter.data
    literal.load_state_dict(weights)
    for size in ((224, 224), (64, 160)):
        x = torch.randn(1, 3, *size)
        (out,), (expected,) = model(x), literal(x)
        torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-4)
