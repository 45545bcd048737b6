"""GSA against a slow float64 version."""

import pytest
import torch
from paper import cells, rotated, softmax_attention

from mmvisionllama.layers import GlobalSubsampledAttention, GSAPositionCalibration


@pytest.mark.parametrize('grid', [(8, 8), (7, 10)])
@pytest.mark.parametrize('sr', [1, 4])
def test_gsa_against_float64(grid, sr):
    dims, heads, d = 16, 2, 8
    attention = GlobalSubsampledAttention(dims, heads, sr).double()
    anchor = (6, 5)
    context = GSAPositionCalibration(d, sr, anchor=anchor)(grid, dtype=torch.float64)
    x = torch.randn(2, grid[0] * grid[1], dims, dtype=torch.float64)
    scale = (anchor[1] / grid[1], anchor[0] / grid[0])
    outs = []
    for sample in x:
        maps = sample.view(*grid, dims)
        keys = []
        for cell in cells(grid, sr):
            token = sum(maps[y, v] for v, y in cell)
            if sr > 1:  # the convolution, summed over the tokens that exist
                x0, y0 = cell[0]
                token = attention.sr.bias + sum(attention.sr.weight[:, :, y - y0, v - x0] @ maps[y, v] for v, y in cell)
                token = (token - token.mean()) / (token.var(unbiased=False) + 1e-5).sqrt()
            keys.append((token, [sum(axis) / len(axis) for axis in zip(*cell)]))
        merged = []
        for head in range(heads):
            part = slice(head * d, (head + 1) * d)
            q = sample @ attention.q.weight[part].T + attention.q.bias[part]
            queries = [
                rotated(vector, (scale[0] * (n % grid[1]), scale[1] * (n // grid[1]))) for n, vector in enumerate(q)
            ]
            key_rows, value_rows = attention.kv.weight[:dims][part], attention.kv.weight[dims:][part]
            key_bias, value_bias = attention.kv.bias[:dims][part], attention.kv.bias[dims:][part]
            k = [rotated(key_rows @ token + key_bias, (scale[0] * mean[0], scale[1] * mean[1])) for token, mean in keys]
            v = [value_rows @ token + value_bias for token, _ in keys]
            merged.append(softmax_attention(queries, k, v))
        outs.append(torch.cat(merged, dim=-1) @ attention.proj.weight.T + attention.proj.bias)
    torch.testing.assert_close(attention(x, context), torch.stack(outs), rtol=1e-9, atol=1e-9)


def test_gsa_gradients_reach_everything():
    attention = GlobalSubsampledAttention(16, 2, 2)
    x = torch.randn(1, 35, 16, requires_grad=True)
    attention(x, GSAPositionCalibration(8, 2)((5, 7))).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in attention.parameters())
    assert (x.grad.abs().sum(dim=-1) > 0).all()


def test_gsa_errors():
    with pytest.raises(ValueError, match='does not divide'):
        GlobalSubsampledAttention(16, 3)
    with pytest.raises(ValueError, match='unknown attention backend'):
        GlobalSubsampledAttention(16, 2, backend='fast')
