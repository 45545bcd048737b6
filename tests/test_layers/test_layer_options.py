"""Every option of a layer alone does what it says: two that act alike would hide each other's absence."""

import pytest
import torch
from torch import nn

from mmvisionllama.layers import (
    GELUFFN,
    PEG,
    GlobalSubsampledAttention,
    GSAPositionCalibration,
    RotaryAttention,
    SwiGLU,
    TransformerBlock,
)
from mmvisionllama.layers.attention import attention_spec


@pytest.mark.parametrize('name', ['attn_drop', 'proj_drop'])
@pytest.mark.parametrize('kind', [RotaryAttention, GlobalSubsampledAttention])
def test_one_dropout_of_attention(kind, name):
    attn, x = kind(16, 2, **{name: 0.5}), torch.randn(1, 8, 16)
    context = GSAPositionCalibration(8)((2, 4))
    assert not torch.equal(attn(x, context), attn(x, context))
    attn.eval()
    assert torch.equal(attn(x, context), attn(x, context))


def test_stochastic_depth_of_the_feed_forward_branch():
    norms = nn.LayerNorm(16), nn.LayerNorm(16)
    block = TransformerBlock(RotaryAttention(16, 2), SwiGLU(16, 24), *norms, embed_dims=16, drop_path=0.5)
    for param in block.attn.proj.parameters():
        nn.init.zeros_(param)
    x = torch.randn(64, 9, 16)
    dropped = (block(x) == x).flatten(1).all(1).sum()
    assert 0 < dropped < 64


def test_dropout_of_the_gelu_layer():
    zeros = (GELUFFN(8, drop=0.5)(torch.randn(200, 8)) == 0).float().mean()
    assert 0.4 < zeros < 0.6


def test_positions_from_a_convolution_are_added():
    peg, x = PEG(8), torch.randn(1, 6, 8)
    for param in peg.conv.parameters():
        nn.init.zeros_(param)
    assert torch.equal(peg(x, (2, 3)), x)


def test_what_backends_are_told():
    q, k = torch.randn(2, 3, 7, 8, requires_grad=True), torch.randn(2, 3, 4, 8)
    spec = attention_spec(q, k, dropout=0.1)
    assert (spec.queries, spec.keys, spec.head_dim, spec.dropout, spec.training) == (7, 4, 8, True, True)
    assert not attention_spec(q.detach(), k).training
    assert attention_spec(q, k, packed=True).queries == 3
