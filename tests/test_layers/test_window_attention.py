"""Windowed attention against full attention under a block-diagonal mask."""

import pytest
import torch
from paper import rotated, softmax_attention

from mmvisionllama.layers import (
    AttentionContext,
    RotaryAttention,
    RotaryEmbedding,
    WindowAttention,
    merge_windows,
    partition_windows,
    window_context,
)

WINDOW = 3


def make_attention(dims=16, heads=2):
    windowed = WindowAttention(dims, heads, WINDOW)
    for param in windowed.parameters():
        torch.nn.init.normal_(param, std=0.3)
    full = RotaryAttention(dims, heads)
    full.load_state_dict(windowed.state_dict())
    return windowed.eval(), full.eval(), RotaryEmbedding(dims // heads)


def windows_of(grid):
    """Number of the window of every row-major token, and its place (x, y) inside it."""
    rows, cols = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing='ij')
    number = rows // WINDOW * 100 + cols // WINDOW
    return number.flatten(), torch.stack((cols % WINDOW, rows % WINDOW), dim=-1).flatten(0, 1)


@pytest.mark.parametrize('grid', [(6, 9), (3, 3), (7, 8), (2, 10)])
@pytest.mark.parametrize('kind', ['2d', '1d'])
def test_equals_full_attention_with_a_block_diagonal_mask(grid, kind):
    windowed, full, _ = make_attention()
    rotary = RotaryEmbedding(8, kind=kind)
    x = torch.randn(2, grid[0] * grid[1], 16)
    number, place = windows_of(grid)
    if kind == '1d':
        place = place[:, 1:] * WINDOW + place[:, :1]
    expected = full(x, AttentionContext(rotary(place.float()), mask=number[:, None] == number))
    torch.testing.assert_close(windowed(x, window_context(rotary, grid, WINDOW)), expected, atol=1e-5, rtol=0)


def slow_attention(x, module, rope_base=10000.0):
    """Token by token in float64, from the weights alone: a token sees the tokens of its own window, none is padded.

    Args:
        x: ``(H, W, C)``.
        module: Holds ``qkv`` (rows q, k, v, each head-major), ``proj`` and ``num_heads``.
    """
    height, width, dims = x.shape
    heads, dim = module.num_heads, dims // module.num_heads
    weight, bias = module.qkv.weight.double(), module.qkv.bias.double()

    def turned(vector, row, col):
        pairs = torch.view_as_complex(vector.reshape(-1, 2))
        angles = [place * rope_base ** (-4 * k / dim) for k in range(dim // 4) for place in (col, row)]
        turns = torch.polar(torch.ones(dim // 2, dtype=torch.float64), torch.tensor(angles, dtype=torch.float64))
        return torch.view_as_real(pairs * turns).flatten()

    out = torch.zeros(height, width, dims, dtype=torch.float64)
    for row in range(height):
        for col in range(width):
            top, left = row // WINDOW * WINDOW, col // WINDOW * WINDOW
            mates = [
                (i, j) for i in range(top, min(top + WINDOW, height)) for j in range(left, min(left + WINDOW, width))
            ]
            for head in range(heads):

                def projected(part, i, j, head=head):
                    own = slice(part * dims + head * dim, part * dims + (head + 1) * dim)
                    return weight[own] @ x[i, j].double() + bias[own]

                query = turned(projected(0, row, col), row - top, col - left)
                keys = torch.stack([turned(projected(1, i, j), i - top, j - left) for i, j in mates])
                values = torch.stack([projected(2, i, j) for i, j in mates])
                scores = (keys @ query / dim**0.5).exp()
                out[row, col, head * dim : (head + 1) * dim] = scores @ values / scores.sum()
    return out @ module.proj.weight.double().T + module.proj.bias.double()


@pytest.mark.parametrize('grid', [(6, 3), (4, 5), (2, 2)])
def test_equals_the_sum_over_a_window(grid):
    """Against loops that share no code with the layers; partial windows and one smaller than a window included."""
    windowed, _, rotary = make_attention()
    x = torch.randn(1, *grid, 16)
    with torch.no_grad():
        out = windowed(x.flatten(1, 2), window_context(rotary, grid, WINDOW)).view(*grid, 16)
        expected = slow_attention(x[0], windowed)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


def test_padding_does_not_leak():
    windowed, full, rotary = make_attention()
    grid = (4, 4)  # the last row and column fill windows of their own
    x = torch.randn(1, 16, 16)
    out = windowed(x, window_context(rotary, grid, WINDOW))
    alone = full(x[:, -1:], AttentionContext(rotary(rotary.positions((1, 1)))))
    torch.testing.assert_close(out[:, -1:], alone)
    # a token of one window never moves another window
    moved = x.clone()
    moved[:, 0] += 1
    changed = (windowed(moved, window_context(rotary, grid, WINDOW)) - out).abs().amax(dim=(0, 2)) > 1e-6
    assert torch.equal(changed, windows_of(grid)[0] == 0)


@pytest.mark.parametrize('mask_padding', ['released', False])
def test_released_padding_is_attended(mask_padding):
    windowed, full, rotary = make_attention()
    x = torch.randn(1, 4 * 5, 16)
    padded = torch.zeros(1, 6, 6, 16)
    padded[:, :4, :5] = x.view(1, 4, 5, 16)
    number, place = windows_of((6, 6))
    expected = full(padded.flatten(1, 2), AttentionContext(rotary(place.float()), mask=number[:, None] == number))
    expected = expected.view(1, 6, 6, 16)[:, :4, :5].flatten(1, 2)
    context = window_context(rotary, (4, 5), WINDOW, mask_padding)
    assert context.mask is None
    torch.testing.assert_close(windowed(x, context), expected, atol=1e-5, rtol=0)
    masked = windowed(x, window_context(rotary, (4, 5), WINDOW))
    assert (masked - expected).abs().max() > 1e-3


def test_positions_are_window_local_whatever_the_grid():
    rotary = RotaryEmbedding(8)
    small, large = (window_context(rotary, grid, WINDOW) for grid in ((3, 3), (30, 12)))
    assert torch.equal(small.rope.cos, large.rope.cos) and torch.equal(small.rope.sin, large.rope.sin)
    assert small.rope.cos.shape[0] == WINDOW**2
    assert window_context(rotary, (3, 3), WINDOW, dtype=torch.float64).rope.cos.dtype == torch.float64


@pytest.mark.parametrize('grid', [(6, 6), (5, 7), (1, 4)])
def test_partition_and_merge(grid):
    x = torch.randn(2, *grid, 4)
    windows = partition_windows(x, WINDOW)
    number = -(-grid[0] // WINDOW) * -(-grid[1] // WINDOW)
    assert windows.shape == (2 * number, WINDOW**2, 4)
    first = windows[0].view(WINDOW, WINDOW, 4)[: grid[0], : grid[1]]
    assert torch.equal(first, x[0, :WINDOW, :WINDOW])
    assert torch.equal(merge_windows(windows, grid, WINDOW), x)
    assert windows.sum().item() == pytest.approx(x.sum().item(), abs=1e-3)  # the padding is zero


def test_unknown_padding():
    for padding in ('none', 'zeros', 1):
        with pytest.raises(ValueError, match='mask_padding.*True, False'):
            window_context(RotaryEmbedding(8), (3, 3), WINDOW, padding)


def local_attention(grid, mask_padding=True, dims=16, heads=2, window=7):
    attention = WindowAttention(dims, heads, window).double()
    rotary = RotaryEmbedding(dims // heads)
    return attention, window_context(rotary, grid, window, mask_padding, dtype=torch.float64)


@pytest.mark.parametrize('grid', [(7, 14), (9, 5)])
@pytest.mark.parametrize('mask_padding', [True, False])
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
                    if inside or not mask_padding:  # the release sees zeros there
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
    for mask_padding, independent in ((True, True), (False, False)):
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
