"""LayerScale folded into the weights of a linear: the same numbers and gradients as scaling its output."""

import copy

import pytest
import torch
from torch import nn

from mmvisionllama.layers import (
    GELUFFN,
    CausalAttention,
    CausalContext,
    GlobalSubsampledAttention,
    GSAPositionCalibration,
    RotaryAttention,
    RotaryEmbedding,
    SwiGLU,
    WindowAttention,
    scaled_linear,
    window_context,
)

DIMS, GRID = 8, (6, 5)


class Doubled(nn.Linear):
    """A linear that is more than its weights, as quantised ones are."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('tokens', [3, 40], ids=['few tokens', 'many tokens'])
@pytest.mark.parametrize('kind', [nn.Linear, Doubled])
def test_values_and_gradients(bias, tokens, kind):
    linear, scale = kind(DIMS, 5, bias=bias).double(), torch.rand(5).double().requires_grad_()
    x, weight = torch.randn(2, tokens, DIMS).double().requires_grad_(), torch.randn(2, tokens, 5).double()
    wanted = [x, scale, *linear.parameters()]
    expected = linear(x) * scale
    out = scaled_linear(linear, x, scale)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad((out * weight).sum(), wanted), torch.autograd.grad((expected * weight).sum(), wanted)
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert torch.equal(scaled_linear(linear, x), linear(x))


def test_small_factors_survive_half_precision():
    """In fp16 a weight of 0.02 times 1e-5 would keep two bits."""
    linear, scale, x = nn.Linear(16, 16, bias=False), torch.full((16,), 1e-5), torch.randn(64, 16)
    nn.init.trunc_normal_(linear.weight, std=0.02)
    with torch.autocast('cpu', torch.float16):
        out = scaled_linear(linear, x, scale)
    expected = linear(x) * scale
    assert (out.float() - expected).abs().max() < 2e-3 * expected.abs().max()
    halved = copy.deepcopy(linear).half()
    assert scaled_linear(halved, x.half(), scale.half()).dtype == torch.float16


@pytest.mark.parametrize('name', ['rotary', 'window', 'causal', 'global', 'swiglu', 'gelu'])
def test_every_branch_takes_it(name):
    rotary = RotaryEmbedding(DIMS // 2)
    rope = rotary(rotary.positions(GRID))
    module, rest = {
        'rotary': lambda: (RotaryAttention(DIMS, 2), (rope,)),
        'window': lambda: (WindowAttention(DIMS, 2, 4), (window_context(rotary, GRID, 4),)),
        'causal': lambda: (CausalAttention(DIMS, 2), (CausalContext(rope, is_causal=True),)),
        'global': lambda: (GlobalSubsampledAttention(DIMS, 2, 2), (GSAPositionCalibration(DIMS // 2, 2)(GRID),)),
        'swiglu': lambda: (SwiGLU(DIMS, 16), ()),
        'gelu': lambda: (GELUFFN(DIMS, 16), ()),
    }[name]()
    x, scale = torch.randn(3, GRID[0] * GRID[1], DIMS), torch.randn(DIMS)
    torch.testing.assert_close(module(x, *rest, scale=scale), module(x, *rest) * scale)
