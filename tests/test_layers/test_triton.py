"""The Triton kernels against the formulas: in Triton's interpreter on the CPU, and compiled where a card is."""

import importlib
import sys

import pytest
import torch
import torch.nn.functional as F

from mmvisionllama.layers import RotaryEmbedding, gather_table, kernels, rotate_qkv, use_kernels

KINDS = ('shared', 'partial', 'per head', 'gathered')
#: a rounding of the largest values
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 3.2e-2, torch.float16: 4e-3, torch.float64: 2e-6}


DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def imported(name):
    """A file of kernels, in the interpreter unless there is a card."""
    pytest.importorskip('triton')
    name = f'mmvisionllama.layers.{name}'
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            patch.setenv('TRITON_INTERPRET', '1')
        patch.delitem(sys.modules, name, raising=False)
        yield importlib.import_module(name)


@pytest.fixture(scope='module')
def kernel():
    yield from imported('triton_rotary')


@pytest.fixture(scope='module')
def gate_kernel():
    yield from imported('triton_gate')


def inputs(kind, dtype):
    torch.manual_seed(0)
    rotary = RotaryEmbedding(16, 3, share_heads=kind != 'per head', ratio=0.5 if kind == 'partial' else 1.0)
    table = rotary(rotary.positions((2, 3)))
    if kind == 'gathered':
        table = gather_table(table, torch.stack((torch.randperm(6), torch.randperm(6))))
    qkv = torch.randn(2, 6, 3, 3, 16).to(DEVICE, dtype)
    table = type(table)(*(t.to(DEVICE) for t in table))
    with use_kernels(False):
        return qkv, table, rotate_qkv(qkv, table)


@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
@pytest.mark.parametrize('kind', KINDS)
def test_rotates_and_turns_back(kernel, kind, dtype):
    qkv, table, expected = inputs(kind, dtype)
    tolerance = dict(rtol=0, atol=TOLERANCES[dtype])
    out = torch.full_like(qkv, float('nan'))
    kernel.rotate_into(out.unbind(2), qkv.unbind(2), *table)
    torch.testing.assert_close(out, torch.stack(expected, dim=2), **tolerance)
    back = torch.full_like(qkv, float('nan'))
    kernel.rotate_into(back.unbind(2), out.unbind(2), *table, inverse=True)
    torch.testing.assert_close(back, qkv, **tolerance)
    qk = qkv[:, :, :2].unbind(2)
    kernel.rotate_into(qk, qk, *table)
    torch.testing.assert_close(qkv, out, rtol=0, atol=0)


def test_layouts_of_gradients(kernel):
    """Gradients of fused attention come as (B, h, N, d) behind a transpose, or each in its own layout."""
    qkv, table, expected = inputs('shared', torch.float32)
    heads_first = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in qkv.unbind(2)]
    channels_last = [t.transpose(1, 3).contiguous().transpose(1, 3) for t in qkv.unbind(2)]
    for parts in (heads_first, [heads_first[0], qkv[:, :, 1], channels_last[2]], channels_last):
        out = torch.full_like(qkv, float('nan'))
        kernel.rotate_into(out.unbind(2), parts, *table)
        torch.testing.assert_close(out, torch.stack(expected, dim=2))


def test_empty_batch(kernel):
    qkv, table, _ = inputs('shared', torch.float32)
    kernel.rotate_into(qkv[:0].unbind(2), qkv[:0].unbind(2), *table)


def test_functions_run_it_on_a_gpu(kernel, monkeypatch):
    """The whole autograd functions on the kernel, tensors of the CPU standing in for a card's where there is none."""
    qkv, table, expected = inputs('shared', torch.float32)
    calls = []

    def rotate_into(outs, parts, cos, sin, inverse=False):
        calls.append(inverse)
        kernel.rotate_into(outs, parts, cos, sin, inverse)

    monkeypatch.setattr(kernels, '_rotate_into', rotate_into)
    qkv.requires_grad_()
    out = torch.stack(rotate_qkv(qkv, table), dim=2)
    torch.testing.assert_close(out, torch.stack(expected, dim=2))
    (grad,) = torch.autograd.grad(out.pow(3).sum(), qkv)
    assert calls == [False, True]
    with use_kernels(False):
        (plain,) = torch.autograd.grad(torch.stack(rotate_qkv(qkv, table), dim=2).pow(3).sum(), qkv)
    torch.testing.assert_close(grad, plain)


@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
def test_gate(gate_kernel, dtype):
    torch.manual_seed(0)
    gate, up, grad = (4 * torch.randn(3, 5, 700, device=DEVICE)).to(dtype).unbind(0)
    wide = gate.double().requires_grad_(), up.double().requires_grad_()
    expected = F.silu(wide[0]) * wide[1]
    grads = torch.autograd.grad(expected, wide, grad.double())
    ours = gate_kernel.silu_mul(gate, up), *gate_kernel.silu_mul_backward(gate, up, grad)
    for a, b in zip(ours, (expected.detach(), *grads)):
        assert a.dtype == dtype
        # Triton's interpreter cuts bf16 off where a card rounds
        torch.testing.assert_close(
            a.double(), b, rtol={torch.bfloat16: 1e-2, torch.float16: 2e-3}.get(dtype, 1e-5), atol=1e-5
        )


def test_gate_of_other_layouts(gate_kernel):
    gate, up = torch.randn(2, 6, 8, device=DEVICE).transpose(1, 2).unbind(0)
    torch.testing.assert_close(gate_kernel.silu_mul(gate, up), F.silu(gate) * up)
    assert gate_kernel.silu_mul(gate[:0], up[:0]).shape == (0, 6)
