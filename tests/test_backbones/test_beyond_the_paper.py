"""Options of the plain backbone that others published since the paper: off by default, and what each one computes."""

import math

import pytest
import torch
from torch import nn

from mmvisionllama.backbones import VisionLLaMA
from mmvisionllama.errors import OptionError
from mmvisionllama.layers import AS2DRoPE, AttentionContext, PositionAugmentation, RotaryAttention, log_n_scale
from mmvisionllama.pretraining import MAEVisionLLaMA

ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=32)
OPTIONS = {
    'registers': dict(num_registers=3),
    'qk norm': dict(qk_norm_cfg=dict(type='RMSNorm')),
    'temperature': dict(logit_scale='log_n'),
    'inverse temperature': dict(logit_scale='inverse_log_n'),
    'ramp': dict(rope_cfg=dict(yarn_range=(0.05, 0.5)), cls_position='origin'),
    'augmentation': dict(position_augmentation=dict(rescale=2.0, jitter=1.2)),
    'all': dict(
        num_registers=2,
        qk_norm_cfg=dict(type='RMSNorm'),
        logit_scale='log_n',
        rope_cfg=dict(directions='golden'),
        position_augmentation=dict(rescale=2.0),
    ),
}


def build(**options):
    """A small model trained at 64 pixels whose blocks, positions and tokens all matter."""
    torch.manual_seed(0)
    model = VisionLLaMA(ARCH, anchor=64, img_size=64, layer_scale_init_value=0, **options).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize('name', OPTIONS)
class TestEveryOption:
    def test_it_trains_and_comes_back_at_another_resolution(self, name):
        model, other = build(**OPTIONS[name]), build(**OPTIONS[name])
        other.load_state_dict(model.state_dict())
        images = torch.randn(2, 3, 96, 50)
        torch.testing.assert_close(other(images), model(images), rtol=0, atol=0)
        model.train()(images)[0].square().mean().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())

    def test_an_image_in_a_batch_comes_out_as_alone(self, name):
        model, sizes = build(out_type='avg_featmap', **OPTIONS[name]), [(96, 64), (70, 112)]
        images = [torch.randn(3, *size) for size in sizes]
        batch = torch.randn(2, 3, 96, 112)
        for row, image in zip(batch, images):
            row[:, : image.shape[1], : image.shape[2]] = image
        alone = torch.cat([model(image[None])[0] for image in images])
        torch.testing.assert_close(model(batch, valid_sizes=sizes)[0], alone, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.forward_packed(images)[0], alone, rtol=1e-5, atol=1e-5)

    def test_under_autocast(self, name):
        model, images = build(**OPTIONS[name]), torch.randn(1, 3, 96, 64)
        (expected,) = model(images)
        with torch.autocast('cpu', torch.bfloat16):
            assert (model(images)[0] - expected).abs().max() < 0.15 * expected.abs().max()

    def test_it_changes_the_output(self, name):
        images = torch.randn(1, 3, 96, 64)
        plain, changed = build(), build(**OPTIONS[name])
        changed.load_state_dict({**changed.state_dict(), **plain.state_dict()})
        changed.train(name == 'augmentation')
        assert not torch.allclose(changed(images)[0], plain(images)[0], atol=1e-3)


@pytest.mark.parametrize('name', ['all', *(pytest.param(n, marks=pytest.mark.nightly) for n in OPTIONS if n != 'all')])
def test_one_compiled_graph(name):
    model, images = build(**OPTIONS[name]), torch.randn(1, 3, 96, 64)
    compiled = torch.compile(model, backend='aot_eager', dynamic=True, fullgraph=True)
    torch.testing.assert_close(compiled(images)[0], model(images)[0], rtol=1e-4, atol=1e-5)


class TestTemperature:
    def test_formula(self):
        factor = math.log(784) / math.log(196)
        assert log_n_scale((28, 28), (14, 14), 'log_n') == pytest.approx(factor, rel=1e-12)
        assert log_n_scale((28, 28), (14, 14), 'inverse_log_n') == pytest.approx(1 / factor, rel=1e-12)
        assert log_n_scale((14, 14), (14, 14), 'log_n') is None and log_n_scale((28, 28), (14, 14), None) is None
        each = log_n_scale((torch.tensor([[14.0], [28.0]]), torch.tensor([[14.0], [7.0]])), (14, 14), 'log_n')
        torch.testing.assert_close(each, torch.ones(2, 1))

    def test_logits_are_multiplied(self):
        attn = RotaryAttention(8, 2, qkv_bias=True).double()
        x = torch.randn(2, 5, 8, dtype=torch.float64)
        q, k, v = attn.qkv(x).view(2, 5, 3, 2, 4).unbind(2)
        logits = torch.einsum('bnhd,bmhd->bhnm', q, k) * 1.7 / math.sqrt(4)
        expected = attn.proj(torch.einsum('bhnm,bmhd->bnhd', logits.softmax(-1), v).reshape(2, 5, 8))
        torch.testing.assert_close(attn(x, AttentionContext(logit_scale=1.7)), expected, rtol=0, atol=1e-12)

    def test_at_the_anchor_nothing_changes(self):
        images = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(build(logit_scale='log_n')(images), build()(images), rtol=0, atol=0)


def test_norms_of_queries_and_keys_by_hand():
    attn = RotaryAttention(8, 2, qk_norm_cfg=dict(type='RMSNorm', eps=1e-6)).double()
    nn.init.uniform_(attn.q_norm.weight, 0.5, 2)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    q, k, v = attn.qkv(x).view(2, 5, 3, 2, 4).unbind(2)
    q = q / (q.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * attn.q_norm.weight
    k = k / (k.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    weights = (torch.einsum('bnhd,bmhd->bhnm', q, k) / 2).softmax(-1)
    expected = attn.proj(torch.einsum('bhnm,bmhd->bnhd', weights, v).reshape(2, 5, 8))
    torch.testing.assert_close(attn(x, AttentionContext()), expected, rtol=0, atol=1e-6)


class TestRamp:
    def test_formula(self):
        rotary = AS2DRoPE(16, yarn_range=(0.05, 0.5))
        angles = rotary.angles(rotary.positions((4, 6), anchor=(2, 2), dtype=torch.float64))[:, 0]
        for n in range(24):
            for k in range(4):
                theta = 10000 ** (-k / 4)
                own = min(max((theta - 0.05) / 0.45, 0), 1)
                for axis, (position, side) in enumerate(((n % 6, 6), (n // 6, 4))):
                    expected = theta * position * (own + (1 - own) * 2 / side)
                    assert angles[n, 2 * k + axis] == pytest.approx(expected, abs=1e-6)

    def test_at_the_anchor_it_is_as2drope(self):
        images = torch.randn(1, 3, 64, 64)
        options = dict(cls_position='origin')
        ramp = build(rope_cfg=dict(yarn_range=(0.05, 0.5)), **options)
        torch.testing.assert_close(ramp(images), build(**options)(images), rtol=1e-5, atol=1e-5)


class TestAugmentation:
    def test_one_factor_for_both_axes_and_one_for_each(self):
        positions = torch.rand(20, 2) + 0.1
        for options in (dict(rescale=2.0), dict(jitter=1.5)):
            stretch, found = PositionAugmentation(**options), []
            assert stretch.eval()(positions) is positions
            for seed in range(50):
                torch.manual_seed(seed)
                factors = stretch.train()(positions) / positions
                torch.testing.assert_close(factors, factors[:1].expand_as(factors))
                torch.manual_seed(seed)
                torch.testing.assert_close(stretch(positions) / positions, factors, rtol=0, atol=0)
                found.append(factors[0])
            found, bound = torch.stack(found), max(options.values())
            assert found.min() > 1 / bound and found.max() < bound and found.max() > 1 + 0.8 * (bound - 1)
            assert ('rescale' in options) == torch.allclose(found[:, 0], found[:, 1])

    def test_it_must_change_something(self):
        with pytest.raises(OptionError, match='changes nothing'):
            PositionAugmentation()


class TestRegisters:
    def test_they_are_no_output_but_raw(self):
        images = torch.randn(2, 3, 64, 48)
        shapes = {
            'featmap': (2, 32, 4, 3),
            'cls_token': (2, 32),
            'avg_featmap': (2, 32),
            'raw': (2, 1 + 3 + 12, 32),
        }
        for out_type, shape in shapes.items():
            assert build(num_registers=3, out_type=out_type)(images)[0].shape == shape

    def test_where_they_cannot_stand(self):
        with pytest.raises(OptionError, match='no place for registers'):
            build(num_registers=1, window_size=2, window_block_indexes=(0,), with_cls_token=False, out_type='featmap')
        with pytest.raises(ValueError, match='leave num_registers out'):
            MAEVisionLLaMA(ARCH, num_registers=1)


@pytest.mark.parametrize(
    'options',
    [
        dict(num_registers=-1),
        dict(logit_scale='log'),
        dict(qk_norm_cfg=dict(type='NoNorm')),
        dict(position_augmentation=dict(rescale=0.5)),
        dict(position_augmentation=dict(scale=2.0)),
        dict(rope_cfg=dict(yarn_range=(1.0, 0.5))),
        dict(rope_cfg=dict(yarn_range=(0.1, 0.5)), cls_position='above_top_right'),
    ],
)
def test_nonsense_is_refused(options):
    with pytest.raises((ValueError, KeyError)) as error:
        build(**options)
    assert '\n' not in str(error.value)


def test_positions_need_an_embedding_and_an_embedding_needs_positions():
    """Of attention by hand: nothing is left out without a word."""
    x = torch.randn(1, 6, 32)
    rotary = AS2DRoPE(16, 2, directions='mixed')
    positions = torch.rand(6, 2)
    context = AttentionContext(positions=positions)
    with pytest.raises(OptionError, match='this one has none: give it rotary='):
        RotaryAttention(32, 2)(x, context)
    attention = RotaryAttention(32, 2, rotary=rotary)
    with pytest.raises(OptionError, match='makes its own from positions'):
        attention(x, AttentionContext(rope=rotary(positions)))
    plain = RotaryAttention(32, 2)
    plain.load_state_dict({key: value for key, value in attention.state_dict().items() if 'rotary' not in key})
    torch.testing.assert_close(attention(x), plain(x), rtol=0, atol=0)
    assert not torch.allclose(attention(x, context), plain(x))


def test_augmentation_under_vmap():
    augment = PositionAugmentation(rescale=2.0, jitter=1.2).train()
    positions = torch.rand(5, 2) + 1
    out = torch.func.vmap(augment, randomness='different')(positions.expand(3, -1, -1))
    ratios = out / positions
    assert (ratios.max() / ratios.min()) > 1.001 and ratios.min() >= 1 / 2.4 and ratios.max() <= 2.4
