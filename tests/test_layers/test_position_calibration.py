"""Positions of sub-sampled keys against means over the cells."""

import pytest
import torch
from mmengine.registry import MODELS
from paper import cells, rotated
from torch import nn

from mmvisionllama.layers import GSAPositionCalibration, apply_rotary


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
@pytest.mark.parametrize(
    'options',
    [
        dict(key_position='flat_index', scale='none'),
        dict(key_position='flat_index', scale='height', anchor=(14, 14)),
        dict(key_position='released', scale='released'),
    ],
)
def test_released_positions(sr, options):
    height, width = 16, 24
    calibration = GSAPositionCalibration(32, sr, **dict(dict(anchor=(56, 56)), **options))
    s = 1 if options['scale'] == 'none' else 14 / height
    keys = range((height // sr) * (width // sr))
    expected = [(s * (1 - 1 / sr + sr * (n % width)), s * (1 - 1 / sr + sr * (n // width))) for n in keys]
    torch.testing.assert_close(calibration.key_positions((height, width)), torch.tensor(expected))
    queries = calibration.query_positions((height, width))
    assert queries[-1].tolist() == pytest.approx([s * (width - 1), s * (height - 1)])


def test_anchor_is_the_identity_at_its_own_size():
    scaled = GSAPositionCalibration(32, 4, anchor=(28, 28))
    unscaled = GSAPositionCalibration(32, 4, anchor=(28, 28), scale='none')
    for a, b in ((getattr(c, name) for c in (scaled((28, 28)), unscaled((28, 28)))) for name in ('query', 'key')):
        assert torch.equal(a.cos, b.cos)
    assert not torch.equal(scaled((28, 30)).key.cos, unscaled((28, 30)).key.cos)


def test_ntk_of_the_keys():
    shared = GSAPositionCalibration(32, 2, ntk_alpha=5)((8, 8))
    released = GSAPositionCalibration(32, 2, ntk_alpha=5, ntk_keys='plain_base')((8, 8))
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
        (dict(key_position='flat_index', kind='1d'), '1D RoPE'),
        (dict(scale='width'), 'unknown rotary scale'),
    ],
)
def test_calibration_errors(options, message):
    with pytest.raises(ValueError, match=message):
        GSAPositionCalibration(32, **options)
