"""The block: pre-norm residual branches, LayerScale, stochastic depth, activation checkpointing."""

import pytest
import torch
from torch import nn

from mmvisionllama.layers import (
    AttentionContext,
    DropPath,
    RMSNorm,
    RotaryAttention,
    RotaryEmbedding,
    SwiGLU,
    TransformerBlock,
    WindowAttention,
    build_norm,
    window_context,
)

DIMS = 16


def make_block(window=False, **kwargs):
    attn = WindowAttention(DIMS, 2, 2) if window else RotaryAttention(DIMS, 2)
    norms = (build_norm(dict(type='LN', eps=1e-6), DIMS) for _ in range(2))
    return TransformerBlock(attn, SwiGLU(DIMS, 24), *norms, embed_dims=DIMS, **kwargs)


def make_rope(grid=(3, 3), window=False):
    rotary = RotaryEmbedding(DIMS // 2)
    return window_context(rotary, grid, 2) if window else AttentionContext(rotary(rotary.positions(grid)))


@pytest.mark.parametrize('scale', [0.0, 0.3])
def test_formula(scale):
    block, rope, x = make_block(layer_scale_init_value=scale), make_rope(), torch.randn(2, 9, DIMS)
    assert ('ls1.weight' in block.state_dict()) == bool(scale)
    factor = scale or 1.0
    middle = x + factor * block.attn(block.ln1(x), rope)
    expected = middle + factor * block.ffn(block.ln2(middle))
    torch.testing.assert_close(block(x, rope), expected)


@pytest.mark.parametrize('training', [False, True])
def test_layer_scale_and_drop_path_together(training):
    block, rope, x = make_block(layer_scale_init_value=0.5, drop_path=0.3), make_rope(), torch.randn(64, 9, DIMS)
    block.train(training)
    nn.init.zeros_(block.ffn.down.weight)  # leaves the attention's branch
    branch = (block(x, rope) - x) / (0.5 * block.attn(block.ln1(x), rope))
    if not training:
        torch.testing.assert_close(branch, torch.ones_like(branch), atol=2e-2, rtol=0)
        return
    factors = branch.flatten(1).median(dim=1).values  # one per sample
    kept = (factors - 1 / 0.7).abs() < 1e-2
    assert torch.all(kept | (factors.abs() < 1e-6)) and 0.4 < kept.float().mean() < 0.95


def test_drop_path_keeps_the_mean():
    drop = DropPath(0.25)
    out = drop(torch.ones(8000, 3, 2))
    assert torch.equal(out[:, :1, :1].expand_as(out), out)  # whole samples
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert out.mean().item() == pytest.approx(1.0, abs=0.03)
    assert torch.equal(drop.eval()(out), out)
    with pytest.raises(ValueError, match='drop_prob'):
        DropPath(1.0)


@pytest.mark.parametrize('window', [False, True])
def test_activation_checkpointing_changes_nothing(window):
    block = make_block(window=window, layer_scale_init_value=0.3, drop_path=0.5)
    rope, x = make_rope(window=window), torch.randn(4, 9, DIMS)
    results = []
    for with_cp in (False, True):
        block.with_cp = with_cp
        block.zero_grad()
        given = x.clone().requires_grad_()
        torch.manual_seed(5)  # the same samples are dropped
        out = block(given, rope)
        out.square().sum().backward()
        results.append([out.detach(), given.grad, *(p.grad.clone() for p in block.parameters())])
    for plain, recomputed in zip(*results):
        torch.testing.assert_close(recomputed, plain)


def test_activations_are_recomputed():
    calls = []
    block, rope = make_block(with_cp=True), make_rope()
    block.attn.register_forward_pre_hook(lambda *args: calls.append(1))
    block(torch.randn(1, 9, DIMS), rope).sum().backward()
    assert len(calls) == 2
    calls.clear()
    block.eval()(torch.randn(1, 9, DIMS), rope)
    assert len(calls) == 1


def test_norms_by_config():
    assert isinstance(build_norm(dict(type='RMSNorm', eps=1e-6), 8), RMSNorm)
    norm = build_norm(dict(type='LN', eps=1e-3, requires_grad=True), 8)
    assert isinstance(norm, nn.LayerNorm) and norm.eps == 1e-3
    with pytest.raises(ValueError, match="'LN', 'RMSNorm'"):
        build_norm(dict(type='Nothing'), 8)
