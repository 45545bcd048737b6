"""Rotary directions against slow float64 versions of their formulas, and through every way of a backbone."""

import copy
import math

import pytest
import torch

from mmvisionllama.backbones import PyramidVisionLLaMA, VisionLLaMA, iLLaMA
from mmvisionllama.errors import OptionError
from mmvisionllama.layers import AS2DRoPE, GSAPositionCalibration, apply_rotary
from mmvisionllama.layers.context_cache import clear_contexts
from mmvisionllama.layers.directions import GOLDEN_RANGE
from mmvisionllama.pretraining import MAEVisionLLaMA

ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=32)


def golden_by_formula(heads, planes, low, high):
    """f of every head and plane, from the text: direction i of all, then its head's geometric magnitudes."""
    vectors = []
    for head in range(heads):
        row = []
        for plane in range(planes):
            angle = (head * planes + plane) * math.pi * (math.sqrt(5) - 1) / 2
            size = low * (high / low) ** (plane / (planes - 1))
            row.append((size * math.cos(angle), size * math.sin(angle)))
        vectors.append(row)
    return vectors


def rotated_by_vectors(x, positions, vectors):
    """``(B, N, h, d)`` rotated plane by plane with float64 numbers."""
    out = x.clone()
    for n, (px, py) in enumerate(positions.tolist()):
        for head in range(x.shape[2]):
            for plane, (fx, fy) in enumerate(vectors[head % len(vectors)]):
                angle = px * fx + py * fy
                a, b = x[:, n, head, 2 * plane], x[:, n, head, 2 * plane + 1]
                out[:, n, head, 2 * plane] = a * math.cos(angle) - b * math.sin(angle)
                out[:, n, head, 2 * plane + 1] = a * math.sin(angle) + b * math.cos(angle)
    return out


class TestFormula:
    @pytest.mark.parametrize('freq_range', [None, (0.05, 1.5)])
    @pytest.mark.parametrize('ratio', [1.0, 0.5])
    def test_golden(self, freq_range, ratio):
        x = torch.randn(2, 12, 3, 16, dtype=torch.float64)
        rotary = AS2DRoPE(16, 3, directions='golden', freq_range=freq_range, ratio=ratio)
        positions = rotary.positions((3, 4), anchor=(5, 6), dtype=torch.float64)
        vectors = golden_by_formula(3, int(8 * ratio), *(freq_range or GOLDEN_RANGE))
        expected = rotated_by_vectors(x, positions, vectors)
        torch.testing.assert_close(apply_rotary(x, rotary(positions)), expected, atol=1e-12, rtol=0)
        single = apply_rotary(x.float(), rotary(positions.float()))
        torch.testing.assert_close(single.double(), expected, atol=2e-5, rtol=0)

    def test_golden_range_is_the_published_one(self):
        low, high = GOLDEN_RANGE  # coordinates in -1 ... 1 on 14 tokens: a token is 1 / 7
        assert low * 7 == pytest.approx(0.2) and high * 7 == pytest.approx(20)

    @pytest.mark.parametrize('num_directions, ratio', [(4, 1.0), (2, 1.0), (1, 1.0), (2, 0.5)])
    def test_spiral(self, num_directions, ratio):
        """Groups of channels, each with magnitudes of its own, along directions that divide a right angle."""
        x = torch.randn(2, 12, 3, 16, dtype=torch.float64)
        rotary = AS2DRoPE(16, 3, directions='spiral', num_directions=num_directions, ratio=ratio, base=100)
        positions = rotary.positions((3, 4), anchor=(5, 6), dtype=torch.float64)
        count, vectors = int(4 * ratio) // num_directions, []
        for j in range(count):
            for k in range(num_directions):
                theta, phi = 100 ** (-j / count), k * math.pi / 2 / num_directions
                vectors.append((theta * math.cos(phi), theta * math.sin(phi)))
                vectors.append((-theta * math.sin(phi), theta * math.cos(phi)))
        expected = rotated_by_vectors(x, positions, [vectors])
        torch.testing.assert_close(apply_rotary(x, rotary(positions)), expected, atol=1e-12, rtol=0)
        if num_directions == 1:
            axial = AS2DRoPE(16, base=100)
            torch.testing.assert_close(rotary.angles(positions), axial.angles(positions), atol=1e-12, rtol=0)

    def test_mixed_begins_as_axial_ones_that_each_head_turns(self):
        torch.manual_seed(3)
        rotary = AS2DRoPE(16, 3, directions='mixed', base=100)
        assert rotary.vectors.shape == (3, 8, 2) and rotary.vectors.requires_grad
        turns = []
        for head in rotary.vectors.detach().double():
            first = [math.atan2(y, x) for x, y in head[0::2].tolist()]
            second = [math.atan2(y, x) for x, y in head[1::2].tolist()]
            for k, (x, y) in enumerate(head.tolist()):
                assert math.hypot(x, y) == pytest.approx(100 ** (-4 * (k // 2) / 16), rel=1e-5)
            assert max(first) - min(first) < 1e-5
            for a, b in zip(first, second):
                assert (b - a) % (2 * math.pi) == pytest.approx(math.pi / 2, abs=1e-5)
            turns.append(first[0])
        assert min(abs(a - b) for i, a in enumerate(turns) for b in turns[:i]) > 1e-3

    def test_mixed(self):
        x = torch.randn(1, 12, 3, 16, dtype=torch.float64)
        rotary = AS2DRoPE(16, 3, directions='mixed').double()
        positions = rotary.positions((4, 3), anchor=(7, 7), dtype=torch.float64)
        expected = rotated_by_vectors(x, positions, rotary.vectors.tolist())
        torch.testing.assert_close(apply_rotary(x, rotary(positions)), expected, atol=1e-12, rtol=0)

    @pytest.mark.parametrize('options', [{}, dict(ratio=0.5, base=50.0), dict(num_heads=3, share_heads=False)])
    def test_axial_is_the_general_formula_bit_for_bit(self, options):
        rotary = AS2DRoPE(16, **options)
        positions = rotary.positions((9, 23), (14, 14))
        general = (positions[:, None, None] * rotary.frequency_vectors()).sum(-1)
        assert torch.equal(rotary.angles(positions), general)

    @pytest.mark.parametrize('directions', ['golden', 'mixed', 'spiral'])
    def test_scores_depend_on_relative_positions_only(self, directions):
        rotary = AS2DRoPE(16, 2, directions=directions).double()
        q, k = torch.randn(2, 1, 10, 2, 16, dtype=torch.float64)
        at_q, at_k = torch.rand(2, 10, 2, dtype=torch.float64) * 30
        shift = torch.tensor([17.5, -40.25], dtype=torch.float64)
        scores = [(apply_rotary(q, rotary(at_q + s)) * apply_rotary(k, rotary(at_k + s))).sum(-1) for s in (0, shift)]
        torch.testing.assert_close(*scores, atol=1e-10, rtol=0)

    @pytest.mark.parametrize('directions', ['axial', 'golden', 'mixed', 'spiral'])
    def test_each_axis_has_its_own_anchor(self, directions):
        rotary = AS2DRoPE(16, 2, directions=directions)
        wide = rotary(rotary.positions((7, 28), (14, 14)))
        own = rotary(torch.tensor([[x / 2, y * 2.0] for y in range(7) for x in range(28)]))
        torch.testing.assert_close(wide.cos, own.cos)
        torch.testing.assert_close(wide.sin, own.sin)


def backbone(directions='mixed', cls=VisionLLaMA, **options):
    torch.manual_seed(1)
    options = dict(dict(arch=ARCH, patch_size=4, anchor=32, layer_scale_init_value=0), **options)
    return cls(rope_cfg=dict(directions=directions, **options.pop('rope_cfg', {})), **options)


class TestInBackbones:
    def test_every_block_learns_its_own(self):
        model = backbone()
        names = [name for name, _ in model.named_parameters() if 'rotary' in name]
        assert names == ['layers.0.attn.rotary.vectors', 'layers.1.attn.rotary.vectors']
        assert not torch.equal(*(layer.attn.rotary.vectors for layer in model.layers))
        model(torch.rand(2, 3, 24, 40))[0][:, :5].sum().backward()  # the norm keeps the sum of all
        assert all(layer.attn.rotary.vectors.grad.abs().max() > 0 for layer in model.layers)
        assert [model.get_layer_depth(name)[0] for name in names] == [1, 2]

    def test_frozen_blocks_freeze_theirs(self):
        model = backbone(frozen_stages=1)
        assert [layer.attn.rotary.vectors.requires_grad for layer in model.layers] == [False, True]

    def test_gradient_is_the_formulas(self):
        rotary = AS2DRoPE(8, 2, directions='mixed').double()
        x = torch.randn(1, 4, 2, 8, dtype=torch.float64)
        positions = torch.rand(4, 2, dtype=torch.float64) * 9

        def turned(vectors):
            table = torch.func.functional_call(rotary, {'vectors': vectors}, (positions,))
            return apply_rotary(x, table)

        assert torch.autograd.gradcheck(turned, (rotary.vectors.detach().requires_grad_(),))

    @pytest.mark.parametrize('windows', [(), (0,)])
    def test_no_table_is_older_than_what_was_learned(self, windows):
        clear_contexts()
        options = dict(window_block_indexes=windows, window_size=4, with_cls_token=False, out_type='raw')
        model, x = backbone(**options).eval(), torch.rand(1, 3, 24, 40)
        with torch.no_grad():
            before = model(x)[0]
            for layer in model.layers:
                layer.attn.rotary.vectors.mul_(1.5)
            after = model(x)[0]
            fresh = copy.deepcopy(model)
            clear_contexts()
            assert not torch.allclose(before, after)
            assert torch.equal(after, fresh(x)[0])

    @pytest.mark.parametrize('directions', ['golden', 'mixed', 'spiral'])
    def test_images_of_a_batch_are_as_alone(self, directions):
        model = backbone(directions, with_cls_token=False, out_type='avg_featmap').eval()
        sizes = [(24, 40), (32, 20), (24, 40)]
        images = [torch.rand(3, *size) for size in sizes]
        batch = torch.zeros(3, 3, 32, 40)
        for target, image in zip(batch, images):
            target[:, : image.shape[1], : image.shape[2]] = image
        with torch.no_grad():
            alone = torch.cat([model(image[None])[0] for image in images])
            torch.testing.assert_close(model(batch, valid_sizes=sizes)[0], alone, atol=1e-5, rtol=0)
            torch.testing.assert_close(model(images)[0], alone, atol=1e-5, rtol=0)

    @pytest.mark.parametrize('directions', ['golden', 'mixed', 'spiral'])
    def test_mae_keeps_the_places_of_visible_patches(self, directions):
        encoder = backbone(directions, MAEVisionLLaMA).eval()
        images = [torch.rand(3, 24, 40), torch.rand(3, 32, 20)]
        noise = [torch.rand(60), torch.rand(40)]
        with torch.no_grad():
            packed = encoder.forward_packed(images, True, noise)
            for image, ranks, (latent, _, _) in zip(images, noise, packed):
                alone = encoder(image[None], noise=ranks[None])[0]
                torch.testing.assert_close(latent[None], alone, atol=1e-5, rtol=0)
            whole = copy.deepcopy(encoder)
            whole.mask_ratio = 0.0
            everything = whole(images[0][None], noise=torch.arange(60.0)[None])[0][:, 1:]
            torch.testing.assert_close(everything, encoder(images[0][None], False)[0], atol=1e-5, rtol=0)

    @pytest.mark.parametrize('directions', ['golden', 'mixed', 'spiral'])
    def test_weights_go_to_another_resolution(self, directions):
        model = backbone(directions).eval()
        other = backbone(directions, anchor=48, img_size=48)
        other.load_state_dict(model.state_dict())
        same = backbone(directions)
        same.load_state_dict(model.state_dict())
        x = torch.rand(1, 3, 32, 32)
        with torch.no_grad():
            assert torch.equal(model(x)[0], same.eval()(x)[0])
            assert not torch.allclose(model(x)[0], other.eval()(x)[0])

    @pytest.mark.parametrize('directions', ['golden', 'mixed', 'spiral'])
    def test_half_precision_and_checkpointed_activations(self, directions):
        model, x = backbone(directions), torch.rand(2, 3, 24, 40)
        with torch.autocast('cpu', torch.bfloat16):
            model(x)[0][:, :5].float().sum().backward()
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        for layer in model.layers:
            layer.with_cp = True
        with torch.autocast('cpu', torch.bfloat16):
            model(x)[0][:, :5].float().sum().backward()
        for kept, again in zip(grads, (p.grad for p in model.parameters() if p.grad is not None)):
            assert torch.equal(kept, again)
        low = copy.deepcopy(model).to(torch.bfloat16).eval()
        with torch.no_grad():
            assert low(x.bfloat16())[0].isfinite().all()

    def test_pyramid_takes_golden_ones(self):
        arch = dict(embed_dims=(32, 64), depths=(2, 2), num_heads=(2, 4), sr_ratios=(2, 1))
        x, outs = torch.rand(1, 3, 40, 56), []
        for directions in ('axial', 'golden'):
            torch.manual_seed(0)
            rope_cfg = dict(directions=directions)
            model = PyramidVisionLLaMA(arch, out_indices=(1,), rope_cfg=rope_cfg, layer_scale_init_value=0).eval()
            assert {r.directions for r in (*model.window_rotaries, *(c.key_rotary for c in model.calibrations))} == {
                directions
            }
            with torch.no_grad():
                outs.append(model(x)[0])
                assert torch.equal(outs[-1], model(x)[0])  # with contexts made before
        assert (outs[0] - outs[1]).abs().max() > 1e-4


class TestNonsense:
    @pytest.mark.parametrize(
        'options, message',
        [
            (dict(directions='diagonal'), "unknown rotary directions 'diagonal'"),
            (dict(directions='golden', num_heads=None), 'give num_heads'),
            (dict(directions='mixed', kind='1d'), '2D RoPE'),
            (dict(directions='mixed', share_heads=False), 'share_heads'),
            (dict(directions='golden', base=100), 'freq_range in the place of base'),
            (dict(directions='golden', freq_range=(2, 1)), 'must ascend'),
            (dict(directions='golden', freq_range=(0, 1)), 'positive and finite'),
            (dict(directions='golden', freq_range=1.0), 'must be'),
            (dict(directions='spiral', num_directions=3), 'must divide 4'),
            (dict(directions='spiral', num_directions=0), 'positive whole number'),
            (dict(freq_range=(1, 2)), "option of directions='golden'"),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(OptionError, match=message):
            AS2DRoPE(16, **dict(dict(num_heads=2), **options))

    def test_what_shares_its_tables_learns_none(self):
        with pytest.raises(OptionError, match='cannot be learned'):
            GSAPositionCalibration(16, 2, num_heads=2, directions='mixed')
        with pytest.raises(OptionError, match='cannot be learned'):
            PyramidVisionLLaMA('small', rope_cfg=dict(directions='mixed'))
        with pytest.raises(OptionError, match='2D RoPE'):
            iLLaMA(ARCH, rope_cfg=dict(directions='golden'))
        model = backbone()
        with pytest.raises(OptionError, match='belong to the layers'):
            model.rotary(model.rotary_positions((2, 2)))
