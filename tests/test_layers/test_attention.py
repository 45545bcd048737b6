"""Attention against softmax(q k^T / sqrt(d)) v written out per head in float64."""

import pytest
import torch

from mmvisionllama.layers import AttentionContext, RotaryAttention, RotaryEmbedding, attend


def attention_by_hand(q, k, v, allowed=None, bias=None):
    """(B, h, N, d) tensors, one head at a time, in float64."""
    out = torch.empty_like(q, dtype=torch.float64)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            scores = q[b, h].double() @ k[b, h].double().T / q.shape[-1] ** 0.5
            if bias is not None:
                scores = scores + bias
            if allowed is not None:
                scores = torch.where(allowed, scores, -torch.inf)
            weights = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
            out[b, h] = weights @ v[b, h].double()
    return out


@pytest.mark.parametrize('backend', ['auto', 'sdpa', 'eager'])
class TestAttend:
    def test_plain(self, backend):
        q, k, v = torch.randn(3, 2, 3, 5, 8)
        out = attend(q, k, v, backend=backend)
        torch.testing.assert_close(out.double(), attention_by_hand(q, k, v), atol=1e-6, rtol=0)

    def test_masks(self, backend):
        q, k, v = torch.randn(3, 2, 3, 5, 8)
        allowed = torch.rand(5, 5) > 0.4
        allowed.fill_diagonal_(True)
        out = attend(q, k, v, mask=allowed, backend=backend)
        torch.testing.assert_close(out.double(), attention_by_hand(q, k, v, allowed), atol=1e-6, rtol=0)
        bias = torch.randn(5, 5)
        out = attend(q, k, v, mask=bias, backend=backend)
        torch.testing.assert_close(out.double(), attention_by_hand(q, k, v, bias=bias), atol=1e-6, rtol=0)

    def test_causal(self, backend):
        q, k, v = torch.randn(3, 1, 2, 6, 8)
        allowed = torch.arange(6)[:, None] >= torch.arange(6)
        out = attend(q, k, v, is_causal=True, backend=backend)
        torch.testing.assert_close(out.double(), attention_by_hand(q, k, v, allowed), atol=1e-6, rtol=0)

    def test_keys_of_another_length(self, backend):
        q, (k, v) = torch.randn(2, 3, 7, 8), torch.randn(2, 2, 3, 4, 8)
        out = attend(q, k, v, backend=backend)
        torch.testing.assert_close(out.double(), attention_by_hand(q, k, v), atol=1e-6, rtol=0)

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_half_precision(self, backend, dtype):
        q, k, v = torch.randn(3, 2, 3, 5, 8, dtype=dtype)
        with torch.autocast('cpu', dtype):
            out = attend(q, k, v, backend=backend)
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), attention_by_hand(q, k, v), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize('backend', ['auto', 'eager'])
def test_layer_against_the_formula(backend):
    attn = RotaryAttention(24, 3, backend=backend).double()
    for param in attn.parameters():
        torch.nn.init.normal_(param, std=0.4)
    rotary = RotaryEmbedding(8)
    table = rotary(rotary.positions((2, 3), (4, 4), dtype=torch.float64))
    x = torch.randn(2, 6, 24, dtype=torch.float64)

    # rows q, k, v of the packed projection, each head-major
    packed = x @ attn.qkv.weight.T + attn.qkv.bias
    q, k, v = (packed[..., i * 24 : (i + 1) * 24].reshape(2, 6, 3, 8).transpose(1, 2) for i in range(3))
    # pairs of channels as complex numbers
    angles = torch.atan2(table.sin, table.cos)[:, 0]
    q, k = (
        torch.view_as_complex(t.reshape(2, 3, 6, 4, 2)) * torch.polar(torch.ones_like(angles), angles) for t in (q, k)
    )
    q, k = (torch.view_as_real(t).flatten(-2) for t in (q, k))
    heads = attention_by_hand(q, k, v)
    expected = heads.transpose(1, 2).reshape(2, 6, 24) @ attn.proj.weight.T + attn.proj.bias
    torch.testing.assert_close(attn(x, AttentionContext(table)), expected, atol=1e-12, rtol=0)
    assert (attn(x) - expected).abs().max() > 1e-3  # without a table nothing is rotated


def test_weights_are_dropped_in_training_only():
    attn = RotaryAttention(16, 2, attn_drop=0.5, proj_drop=0.5)
    x = torch.randn(1, 8, 16)
    assert not torch.equal(attn(x), attn(x))
    attn.eval()
    assert torch.equal(attn(x), attn(x))
    q, k, v = torch.randn(3, 1, 2, 8, 8)
    torch.manual_seed(3)
    dropped = torch.stack([attend(q, k, v, dropout=0.5, backend='eager') for _ in range(2000)]).mean(0)
    torch.testing.assert_close(dropped, attend(q, k, v), atol=0.15, rtol=0)


def test_biases_are_options():
    names = {name for name, _ in RotaryAttention(16, 2, qkv_bias=False, proj_bias=False).named_parameters()}
    assert names == {'qkv.weight', 'proj.weight'}


def test_errors():
    with pytest.raises(ValueError, match="'auto', 'eager', 'sdpa'"):
        RotaryAttention(16, 2, backend='fast')
    with pytest.raises(ValueError, match='num_heads 3 does not divide embed_dims 16'):
        RotaryAttention(16, 3)
