"""Local and global sub-sampled attention and the positions of their keys, against slow float64 versions."""

import math

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmvisionllama.layers import (
    GlobalSubsampledAttention,
    GSAPositionCalibration,
    RotaryEmbedding,
    WindowAttention,
    apply_rotary,
    window_context,
)


def cells(grid, sr):
    """Positions (x, y) of the real tokens in each sr x sr cell, row-major."""
    height, width = grid
    return [
        [(x, y) for y in range(y0, min(y0 + sr, height)) for x in range(x0, min(x0 + sr, width))]
        for y0 in range(0, height, sr)
        for x0 in range(0, width, sr)
    ]


def rotated(vector, position, base=10000.0):
    """Section 3.3 for one head vector: planes alternate between x and y, plane pair k turns by base ** (-4k / d)."""
    d = len(vector)
    out = vector.clone()
    for plane in range(d // 2):
        angle = position[plane % 2] * base ** (-4 * (plane // 2) / d)
        a, b = vector[2 * plane], vector[2 * plane + 1]
        out[2 * plane] = a * math.cos(angle) - b * math.sin(angle)
        out[2 * plane + 1] = a * math.sin(angle) + b * math.cos(angle)
    return out


def softmax_attention(queries, keys, values):
    """One head in float64; queries and keys are lists of rotated vectors."""
    keys, values = torch.stack(keys), torch.stack(values)
    scores = torch.stack(queries) @ keys.T / keys.shape[1] ** 0.5
    return scores.softmax(dim=-1) @ values


# positions of the keys


def test_figure_5():
    positions = GSAPositionCalibration(32, sr_ratio=2).key_positions((4, 4))
    assert positions.tolist() == [[0.5, 0.5], [2.5, 0.5], [0.5, 2.5], [2.5, 2.5]]


def test_first_stage_at_224():
    calibration = GSAPositionCalibration(32, sr_ratio=8, anchor=(56, 56))
    positions = calibration.key_positions((56, 56)).view(7, 7, 2)
    expected = torch.tensor([3.5, 11.5, 19.5, 27.5, 35.5, 43.5, 51.5])
    assert positions[..., 0].eq(expected).all()
    assert positions[..., 1].eq(expected[:, None]).all()


@pytest.mark.parametrize('grid', [(13, 7), (8, 17), (5, 3), (1, 9)])
@pytest.mark.parametrize('sr', [2, 4, 8])
def test_mean_of_the_real_cells(grid, sr):
    anchor = (14, 20)
    positions = GSAPositionCalibration(32, sr, anchor=anchor).key_positions(grid, dtype=torch.float64)
    means = [[sum(axis) / len(axis) for axis in zip(*cell)] for cell in cells(grid, sr)]
    scale = torch.tensor([anchor[1] / grid[1], anchor[0] / grid[0]], dtype=torch.float64)
    torch.testing.assert_close(positions, torch.tensor(means, dtype=torch.float64) * scale, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('grid', [(13, 7), (8, 16)])
def test_mean_of_the_sequence_in_1d(grid):
    calibration = GSAPositionCalibration(32, 4, kind='1d')
    means = [sum(y * grid[1] + x for x, y in cell) / len(cell) for cell in cells(grid, 4)]
    assert calibration.key_positions(grid)[:, 0].tolist() == pytest.approx(means)
    assert calibration.query_positions(grid)[:, 0].tolist() == list(range(grid[0] * grid[1]))
    assert calibration(grid).key.cos.shape == (len(means), 1, 16)


@pytest.mark.parametrize('sr', [1, 2, 8])
@pytest.mark.parametrize('scale', ['none', 'released'])
def test_released_positions(sr, scale):
    height, width = 16, 24
    calibration = GSAPositionCalibration(32, sr, anchor=(56, 56), key_position='released', scale=scale)
    s = 14 / height if scale == 'released' else 1
    keys = range((height // sr) * (width // sr))
    expected = [(s * (1 - 1 / sr + sr * (n % width)), s * (1 - 1 / sr + sr * (n // width))) for n in keys]
    torch.testing.assert_close(calibration.key_positions((height, width)), torch.tensor(expected))
    queries = calibration.query_positions((height, width))
    assert queries[-1].tolist() == pytest.approx([s * (width - 1), s * (height - 1)])


def test_anchor_is_the_identity_at_its_own_size():
    scaled = GSAPositionCalibration(32, 4, anchor=(28, 28))
    unscaled = GSAPositionCalibration(32, 4, anchor=(28, 28), scale='none')
    for a, b in zip(scaled((28, 28))[:2], unscaled((28, 28))[:2]):
        assert torch.equal(a.cos, b.cos)
    assert not torch.equal(scaled((28, 30)).key.cos, unscaled((28, 30)).key.cos)


def test_ntk_of_the_keys():
    shared = GSAPositionCalibration(32, 2, ntk_alpha=5)((8, 8))
    released = GSAPositionCalibration(32, 2, ntk_alpha=5, ntk_keys='released')((8, 8))
    plain = GSAPositionCalibration(32, 2, scale='none')((8, 8))
    assert torch.equal(shared.query.cos, released.query.cos)
    assert torch.equal(released.key.cos, plain.key.cos)
    assert not torch.equal(shared.key.cos, plain.key.cos)
    whole = GSAPositionCalibration(32, 1, ntk_alpha=5, ntk_keys='released')((8, 8))
    assert not torch.equal(whole.query.cos, whole.key.cos)


def test_registered_and_stateless():
    calibration = MODELS.build(dict(type='GSAPositionCalibration', head_dim=32, sr_ratio=4, anchor=(14, 14)))
    calibration((9, 9)), calibration((17, 5))
    assert not calibration.state_dict() and not list(calibration.parameters())


def test_calibrates_a_foreign_attention():
    """Scores of somebody else's pooled keys depend on distances alone: moving all queries and keys changes nothing."""
    pool = nn.AvgPool2d(4, ceil_mode=True)
    calibration = GSAPositionCalibration(16, sr_ratio=4)
    x = torch.randn(1, 16, 12, 12, dtype=torch.float64)
    context = calibration((12, 12), dtype=x.dtype)
    q = apply_rotary(x.flatten(2).mT[:, :, None], context.query)[0, :, 0]  # [144, 16]
    k = apply_rotary(pool(x).flatten(2).mT[:, :, None], context.key)[0, :, 0]  # [9, 16]
    keys = pool(x).flatten(2)[0].T
    for n, (row, col) in {0: (0, 0), 77: (6, 5), 143: (11, 11)}.items():
        for m in range(9):
            cell = (4 * (m % 3) + 1.5, 4 * (m // 3) + 1.5)
            offset = (cell[0] - col, cell[1] - row)
            expected = x[0, :, row, col] @ rotated(keys[m], offset)
            assert (q[n] @ k[m]).item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(sr_ratio=0), 'positive whole number'),
        (dict(sr_ratio=1.5), 'positive whole number'),
        (dict(key_position='centre'), 'unknown key_position'),
        (dict(ntk_keys='none'), 'unknown ntk_keys'),
        (dict(key_position='released', kind='1d'), '1D RoPE'),
        (dict(scale='width'), 'unknown rotary scale'),
    ],
)
def test_calibration_errors(options, message):
    with pytest.raises(ValueError, match=message):
        GSAPositionCalibration(32, **options)


# GSA


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


# LSA


def local_attention(grid, mask_padding=True, dims=16, heads=2, window=7):
    attention = WindowAttention(dims, heads, window).double()
    rotary = RotaryEmbedding(dims // heads)
    return attention, window_context(rotary, grid, window, mask_padding, dtype=torch.float64)


@pytest.mark.parametrize('grid', [(7, 14), (9, 5)])
@pytest.mark.parametrize('mask_padding', [True, 'released'])
def test_lsa_against_float64(grid, mask_padding):
    attention, context = local_attention(grid, mask_padding)
    x = torch.randn(1, grid[0] * grid[1], 16, dtype=torch.float64)
    maps = x.view(*grid, 16)
    out = torch.empty(*grid, 16, dtype=torch.float64)
    for y0 in range(0, grid[0], 7):
        for x0 in range(0, grid[1], 7):
            tokens, places, real = [], [], []
            for y in range(7):
                for v in range(7):
                    inside = y0 + y < grid[0] and x0 + v < grid[1]
                    if inside or mask_padding == 'released':  # the release sees zeros there
                        tokens.append(maps[y0 + y, x0 + v] if inside else torch.zeros(16, dtype=torch.float64))
                        places.append((v, y))
                        real.append(inside)
            qkv = torch.stack(tokens) @ attention.qkv.weight.T + attention.qkv.bias
            heads = []
            for head in range(2):
                q, k, v = (qkv[:, i * 16 + head * 8 : i * 16 + (head + 1) * 8] for i in range(3))
                q, k = ([rotated(row, place) for row, place in zip(t, places)] for t in (q, k))
                heads.append(softmax_attention(q, k, list(v)))
            result = torch.cat(heads, dim=-1) @ attention.proj.weight.T + attention.proj.bias
            for row, (v, y), inside in zip(result, places, real):
                if inside:
                    out[y0 + y, x0 + v] = row
    torch.testing.assert_close(attention(x, context), out.view(1, -1, 16), rtol=1e-9, atol=1e-9)


def test_masked_padding_does_not_reach_the_image():
    grid = (9, 12)
    x = torch.randn(2, 108, 16, dtype=torch.float64)
    for mask_padding, independent in ((True, True), ('released', False)):
        attention, context = local_attention(grid, mask_padding)
        before = attention(x, context)
        # k and v of a padded (zero) token are the bias; for real tokens a larger bias and smaller input cancel out
        shift = torch.randn(16, dtype=torch.float64)
        with torch.no_grad():
            attention.qkv.bias += attention.qkv.weight @ shift
        after = attention(x - shift, context)
        assert torch.allclose(before, after, atol=1e-9) is independent


def test_window_aligned_translation():
    attention, context = local_attention((21, 28))
    x = torch.randn(1, 21, 28, 16, dtype=torch.float64)
    moved = x.roll((7, 14), dims=(1, 2))
    out, out_moved = (attention(t.reshape(1, -1, 16), context).view(1, 21, 28, 16) for t in (x, moved))
    torch.testing.assert_close(out_moved, out.roll((7, 14), dims=(1, 2)), rtol=1e-12, atol=1e-12)
    aside = x.roll(1, dims=2)  # not window-aligned: another partition
    assert (attention(aside.reshape(1, -1, 16), context).view_as(x) - out.roll(1, dims=2)).abs().max() > 1e-3


def test_local_positions_are_never_scaled():
    rotary = RotaryEmbedding(8, scale='per_axis')
    tables = [window_context(rotary, grid, 7).rope.cos for grid in ((7, 7), (70, 21))]
    assert torch.equal(*tables)


def test_unknown_padding():
    with pytest.raises(ValueError, match="'released'"):
        window_context(RotaryEmbedding(8), (7, 7), 7, mask_padding='zeros')


def test_documented_example_runs():
    import doctest

    from mmvisionllama.layers import local_global

    result = doctest.testmod(local_global)
    assert result.attempted >= 5 and not result.failed
