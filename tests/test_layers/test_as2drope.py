"""AS2DRoPE and its variants against the rotation matrix R(i, j) of section 3.3, written out in float64."""

import copy

import pytest
import torch
from paper import rotated_by_paper, turn

from mmvisionllama.layers import RotaryEmbedding, apply_rotary, axis_scales, grid_positions, rotate_qkv

GRIDS = [(14, 14), (20, 20), (9, 23)]
ANCHOR = (14, 14)


def table_of(rotary: RotaryEmbedding, grid, anchor=None, dtype=torch.float32):
    return rotary(rotary.positions(grid, anchor, dtype=dtype))


class TestFormula:
    @pytest.mark.parametrize('grid', GRIDS)
    @pytest.mark.parametrize('anchored', [False, True])
    def test_equals_the_papers_matrix(self, grid, anchored):
        x = torch.randn(2, grid[0] * grid[1], 2, 16, dtype=torch.float64)
        anchor = ANCHOR if anchored else grid
        expected = rotated_by_paper(x, grid, anchor)
        rotary = RotaryEmbedding(16)
        double = apply_rotary(x, table_of(rotary, grid, anchor, torch.float64))
        torch.testing.assert_close(double, expected, atol=1e-12, rtol=0)
        single = apply_rotary(x.float(), table_of(rotary, grid, anchor))
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), expected, atol=2e-5, rtol=0)

    def test_released_scaling_uses_the_height_for_both_axes(self):
        grid = (4, 6)
        x = torch.randn(1, 24, 1, 8, dtype=torch.float64)
        expected = rotated_by_paper(x, grid, ANCHOR, per_axis=False)
        for scale in ('height', 'released'):
            table = table_of(RotaryEmbedding(8, scale=scale), grid, ANCHOR, torch.float64)
            torch.testing.assert_close(apply_rotary(x, table), expected, atol=1e-12, rtol=0)

    @pytest.mark.parametrize('base', [100.0, 1000.0, 100000.0])
    def test_base(self, base):
        x = torch.randn(1, 9, 1, 8, dtype=torch.float64)
        table = table_of(RotaryEmbedding(8, base=base), (3, 3), (3, 3), torch.float64)
        torch.testing.assert_close(
            apply_rotary(x, table), rotated_by_paper(x, (3, 3), (3, 3), base), atol=1e-12, rtol=0
        )

    def test_ntk_aware_raises_the_base_and_leaves_positions_unscaled(self):
        x = torch.randn(1, 24, 1, 8, dtype=torch.float64)
        table = table_of(RotaryEmbedding(8, ntk_alpha=5), (4, 6), ANCHOR, torch.float64)
        torch.testing.assert_close(
            apply_rotary(x, table), rotated_by_paper(x, (4, 6), (4, 6), 50000.0), atol=1e-12, rtol=0
        )

    @pytest.mark.parametrize('ratio', [0.25, 0.5])
    def test_partial_ratio_rotates_the_first_channels(self, ratio):
        x = torch.randn(1, 6, 2, 16, dtype=torch.float64)
        rotated = int(16 * ratio)
        out = apply_rotary(x, table_of(RotaryEmbedding(16, ratio=ratio), (2, 3), (2, 3), torch.float64))
        torch.testing.assert_close(
            out[..., :rotated], rotated_by_paper(x[..., :rotated], (2, 3), (2, 3)), atol=1e-12, rtol=0
        )
        assert torch.equal(out[..., rotated:], x[..., rotated:])
        mixed = apply_rotary(x, table_of(RotaryEmbedding(16, ratio=ratio), (2, 3)))  # the plain formula
        torch.testing.assert_close(mixed, out, atol=1e-6, rtol=0)

    def test_heads_of_their_own_are_one_set_over_all_channels(self):
        qkv = torch.randn(2, 6, 3, 3, 8, dtype=torch.float64)
        rotary = RotaryEmbedding(8, 3, share_heads=False)
        q, k, _ = rotate_qkv(qkv, table_of(rotary, (2, 3), (2, 3), torch.float64))
        for out, given in ((q, qkv[:, :, 0]), (k, qkv[:, :, 1])):
            flat = given.flatten(2)[:, :, None]  # one head of all channels
            expected = rotated_by_paper(flat, (2, 3), (2, 3)).view_as(given)
            torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)

    def test_one_dimensional(self):
        x = torch.randn(1, 12, 1, 8, dtype=torch.float64)
        rotary = RotaryEmbedding(8, kind='1d')
        out = apply_rotary(x, table_of(rotary, (3, 4), ANCHOR, torch.float64))
        for n in range(12):
            turns = [turn(torch.tensor(n * 10000 ** (-2 * k / 8), dtype=torch.float64)) for k in range(4)]
            torch.testing.assert_close(out[0, n, 0], torch.block_diag(*turns) @ x[0, n, 0], atol=1e-12, rtol=0)
        scaled = RotaryEmbedding(8, kind='1d', scale='per_axis').positions((4, 6), (2, 3))
        assert torch.equal(scaled[:, 0], torch.arange(24) / 4)


class TestProperties:
    @pytest.mark.parametrize('rope_cfg', [{}, dict(kind='1d'), dict(ratio=0.5), dict(share_heads=False)])
    def test_scores_depend_on_relative_positions_only(self, rope_cfg):
        rotary = RotaryEmbedding(16, 2, **rope_cfg)
        axes = 2 if rotary.kind == '2d' else 1
        q, k = torch.randn(2, 1, 10, 2, 16, dtype=torch.float64)
        at_q, at_k = torch.rand(2, 10, axes, dtype=torch.float64) * 30
        shift = torch.tensor([17.5, -40.25], dtype=torch.float64)[:axes]

        def scores(offset):
            return (apply_rotary(q, rotary(at_q + offset)) * apply_rotary(k, rotary(at_k + offset))).sum(-1)

        torch.testing.assert_close(scores(shift), scores(0 * shift), atol=1e-10, rtol=0)
        # eq. 3: R(p)^T R(p') is the rotation by the difference
        difference = (q * apply_rotary(k, rotary(at_k - at_q))).sum(-1)
        torch.testing.assert_close(scores(0 * shift), difference, atol=1e-10, rtol=0)
        assert (scores(shift) - (q * k).sum(-1)).abs().max() > 0.1

    def test_norms_are_kept(self):
        x = torch.randn(2, 63, 3, 32)
        out = apply_rotary(x, table_of(RotaryEmbedding(32), (9, 7), ANCHOR))
        torch.testing.assert_close(out.norm(dim=-1), x.norm(dim=-1), atol=1e-5, rtol=1e-5)
        assert (out - x).abs().max() > 0.1

    @pytest.mark.parametrize('anchor', [(14, 14), (10, 22)])
    def test_identity_at_the_anchor(self, anchor):
        auto, plain = RotaryEmbedding(16), RotaryEmbedding(16, scale='none')
        assert auto.scale == 'per_axis'
        assert torch.equal(auto.positions(anchor, anchor), plain.positions(anchor))
        x, y = auto.positions(anchor, anchor).T
        assert torch.equal(x, torch.arange(anchor[1]).repeat(anchor[0]).float())
        assert torch.equal(y, torch.arange(anchor[0]).repeat_interleave(anchor[1]).float())

    def test_no_anchor_means_no_scaling(self):
        assert axis_scales((3, 5), None) == (1.0, 1.0)
        assert axis_scales((7, 28), (14, 14)) == (0.5, 2.0)


class TestPrecision:
    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_angles_stay_fp32_in_half_precision(self, dtype):
        rotary = RotaryEmbedding(64)
        plain = table_of(rotary, (64, 64), ANCHOR)
        with torch.autocast('cpu', dtype):
            table = rotary(rotary.positions((64, 64), ANCHOR, dtype=dtype))
        assert table.cos.dtype == table.sin.dtype == torch.float32
        assert torch.equal(table.cos, plain.cos) and torch.equal(table.sin, plain.sin)
        x = torch.randn(1, 4096, 1, 64, dtype=dtype)
        with torch.autocast('cpu', dtype):
            out = apply_rotary(x, table)
        assert out.dtype == dtype
        exact = apply_rotary(x.double(), table_of(rotary, (64, 64), ANCHOR, torch.float64))
        # no rounding but the last one
        torch.testing.assert_close(out.double(), exact, atol=2e-5, rtol=0.51 * torch.finfo(dtype).eps)

    def test_large_grid_is_accurate(self):
        table = table_of(RotaryEmbedding(64), (128, 128))
        exact = table_of(RotaryEmbedding(64), (128, 128), dtype=torch.float64)
        assert exact.cos.dtype == torch.float64
        assert (table.cos - exact.cos).abs().max() < 5e-5

    def test_positions_of_any_dtype(self):
        rotary = RotaryEmbedding(8)
        whole = torch.tensor([[3, 5], [0, 1]])
        for dtype in (torch.int64, torch.bfloat16, torch.float32):
            assert torch.equal(rotary(whole.to(dtype)).cos, rotary(whole.float()).cos)


class TestState:
    def test_nothing_is_kept_between_calls(self):
        rotary = RotaryEmbedding(16)
        assert not rotary.state_dict() and not list(rotary.buffers())
        before = table_of(rotary, (4, 9), ANCHOR)
        with torch.inference_mode():
            table_of(rotary, (9, 4), ANCHOR)
        after = table_of(copy.deepcopy(rotary), (4, 9), ANCHOR)
        assert torch.equal(before.cos, after.cos) and not after.cos.is_inference()

    def test_transposed_grid_is_not_the_same_table(self):
        rotary = RotaryEmbedding(16)
        assert not torch.equal(table_of(rotary, (4, 9)).cos, table_of(rotary, (9, 4)).cos)


class TestErrors:
    @pytest.mark.parametrize(
        ('args', 'kwargs', 'words'),
        [
            ((18,), {}, 'multiple of 4'),
            ((15,), dict(kind='1d'), 'multiple of 2'),
            ((16,), dict(ratio=0.3), 'rotary ratio'),
            ((16,), dict(ratio=1.5), 'rotary ratio'),
            ((16,), dict(ratio=0.0), 'rotary ratio'),
            ((16,), dict(kind='3d'), "'2d', '1d'"),
            ((16,), dict(scale='width'), "'per_axis'"),
            ((16,), dict(base=0), 'must be positive'),
            ((16,), dict(ntk_alpha=-1), 'must be positive'),
            ((16,), dict(share_heads=False), 'num_heads'),
        ],
    )
    def test_bad_options(self, args, kwargs, words):
        with pytest.raises(ValueError, match=words):
            RotaryEmbedding(*args, **kwargs)

    def test_ratio_with_a_rounding_error_is_taken(self):
        assert 0.07 * 400 != 28 and RotaryEmbedding(400, ratio=0.07).rotary_dim == 28

    def test_positions_of_the_wrong_kind(self):
        with pytest.raises(ValueError, match='2 coordinates'):
            RotaryEmbedding(16)(torch.zeros(3, 1))
        with pytest.raises(ValueError, match='scale'):
            grid_positions((2, 2), (2, 2), 'diagonal')
