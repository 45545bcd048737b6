"""The Triton kernel against the formula: in Triton's interpreter on the CPU, and compiled where a card is."""

import importlib
import sys

import pytest
import torch

from mmvisionllama.layers import RotaryEmbedding, gather_table, kernels, rotate_qkv, use_kernels

MODULE = 'mmvisionllama.layers.triton_rotary'
KINDS = ('shared', 'partial', 'per head', 'gathered')
#: a rounding of the largest values
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 3.2e-2, torch.float16: 4e-3, torch.float64: 2e-6}


@pytest.fixture(scope='module')
def kernel():
    """The module, in the interpreter unless there is a card."""
    pytest.importorskip('triton')
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            patch.setenv('TRITON_INTERPRET', '1')
        before = sys.modules.pop(MODULE, None)
        module = importlib.import_module(MODULE)
        yield module
        sys.modules.pop(MODULE)
        if before is not None:
            sys.modules[MODULE] = before


def inputs(kind, dtype):
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.manual_seed(0)
    rotary = RotaryEmbedding(16, 3, share_heads=kind != 'per head', ratio=0.5 if kind == 'partial' else 1.0)
    table = rotary(rotary.positions((2, 3)))
    if kind == 'gathered':
        table = gather_table(table, torch.stack((torch.randperm(6), torch.randperm(6))))
    qkv = torch.randn(2, 6, 3, 3, 16).to(device, dtype)
    table = type(table)(*(t.to(device) for t in table))
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
