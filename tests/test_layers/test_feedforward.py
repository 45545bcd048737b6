"""Feed-forward layers against their formulas in float64."""

import math

import pytest
import torch

from mmvisionllama.layers import GELUFFN, SwiGLU, build_ffn, swiglu_hidden


@pytest.mark.parametrize(
    ('dims', 'hidden'),
    [(64, 256), (96, 256), (128, 512), (192, 512), (256, 768), (384, 1024), (512, 1536), (768, 2048), (1024, 2816)],
)
def test_hidden_size_of_the_papers_widths(dims, hidden):
    assert swiglu_hidden(dims) == hidden == SwiGLU(dims).gate.out_features


@pytest.mark.parametrize('bias', [False, True])
def test_swiglu(bias):
    ffn = SwiGLU(12, 20, bias=bias).double()
    assert sum('bias' in name for name in ffn.state_dict()) == 3 * bias
    x = torch.randn(2, 5, 12, dtype=torch.float64)

    def linear(layer, x):
        return x @ layer.weight.T + (layer.bias if bias else 0)

    gate = linear(ffn.gate, x)
    expected = linear(ffn.down, gate / (1 + torch.exp(-gate)) * linear(ffn.up, x))
    torch.testing.assert_close(ffn(x), expected, atol=1e-13, rtol=0)
    with torch.no_grad():  # the path that works in place
        torch.testing.assert_close(ffn(x), expected, atol=1e-13, rtol=0)


def test_swiglu_derivatives():
    ffn = SwiGLU(3, 4).double()
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    inputs = (x, *ffn.parameters())
    names = [name for name, _ in ffn.named_parameters()]

    def call(x, *weights):
        return torch.func.functional_call(ffn, dict(zip(names, weights)), (x,))

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_gelu():
    ffn = GELUFFN(8).double()
    assert ffn.up.out_features == 32
    x = torch.randn(3, 8, dtype=torch.float64)
    hidden = x @ ffn.up.weight.T + ffn.up.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    torch.testing.assert_close(ffn(x), hidden @ ffn.down.weight.T + ffn.down.bias, atol=1e-13, rtol=0)


def test_by_name():
    assert isinstance(build_ffn(dict(), 8, 16), SwiGLU)
    assert build_ffn(dict(type='swiglu', bias=True), 8, 16).up.bias is not None
    assert isinstance(build_ffn(dict(type='gelu'), 8), GELUFFN)
    dropped = build_ffn(dict(type='swiglu', drop=0.5), 8, 16)(torch.randn(200, 8))
    assert 0.4 < (dropped == 0).float().mean() < 0.6
    with pytest.raises(ValueError, match="'swiglu', 'gelu'"):
        build_ffn(dict(type='relu'), 8)


def test_autocast_copies_the_input_once():
    ffn, seen = SwiGLU(8, 12), []
    for linear in (ffn.gate, ffn.up):
        linear.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.randn(2, 3, 8)
    with torch.autocast('cpu', torch.bfloat16):
        out = ffn(x)
        assert seen[0] is seen[1] and seen[0].dtype == torch.bfloat16
        ffn.double()(x.double())
        assert seen[2].dtype == torch.float64  # as autocast leaves it
    ffn.float()(x)
    assert out.dtype == torch.bfloat16 and seen[-1] is x
