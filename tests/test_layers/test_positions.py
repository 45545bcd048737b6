"""Positions drawn at random in training, YaRN's ramp, temperature, registers and qk-norm, each against its formula."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from mmvisionllama.backbones import VisionLLaMA
from mmvisionllama.errors import OptionError
from mmvisionllama.layers import AS2DRoPE, PositionAugmentation, RotaryAttention, apply_rotary, log_n_scale
from mmvisionllama.pretraining import MAEVisionLLaMA

ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=32)
OPTIONS = {
    'augmentation': dict(position_augmentation=dict(rescale=2.0, jitter=1.2)),
    'log_n': dict(logit_scale='log_n'),
    'inverse_log_n': dict(logit_scale='inverse_log_n'),
    'registers': dict(num_registers=3),
    'qk-norm': dict(qk_norm_cfg=dict(type='RMSNorm', eps=1e-6)),
    'yarn': dict(rope_cfg=dict(yarn_range=(0.05, 0.5))),
    'all': dict(
        num_registers=2,
        qk_norm_cfg=dict(type='LN'),
        logit_scale='log_n',
        position_augmentation=dict(rescale=2.0),
        rope_cfg=dict(directions='mixed'),
    ),
}


def backbone(cls=VisionLLaMA, **options):
    torch.manual_seed(1)
    model = cls(**dict(dict(arch=ARCH, patch_size=4, anchor=32, layer_scale_init_value=0), **options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and 'vectors' not in name:
                parameter.normal_(std=0.2)  # the initial values hardly tell positions apart
    return model


class TestPositionAugmentation:
    def test_formula(self):
        augment = PositionAugmentation(rescale=3.0, jitter=1.5)
        positions = torch.rand(40, 2, dtype=torch.float64) * 9 + 1
        torch.manual_seed(5)
        out = augment(positions)
        torch.manual_seed(5)
        rescale = torch.empty(1, dtype=torch.float64).uniform_(-math.log(3), math.log(3)).item()
        jitter = torch.empty(2, dtype=torch.float64).uniform_(-math.log(1.5), math.log(1.5)).tolist()
        for (x, y), (new_x, new_y) in zip(positions.tolist(), out.tolist()):
            assert new_x == pytest.approx(x * math.exp(rescale) * math.exp(jitter[0]), rel=1e-12)
            assert new_y == pytest.approx(y * math.exp(rescale) * math.exp(jitter[1]), rel=1e-12)

    def test_factors_are_log_uniform(self):
        augment, ones = PositionAugmentation(rescale=2.0), torch.ones(1, 2)
        torch.manual_seed(0)
        draws = torch.stack([augment(ones)[0] for _ in range(2000)]).log2()
        assert torch.equal(draws[:, 0], draws[:, 1]), 'both axes share the factor'
        assert -1 <= draws.min() < -0.98 and 0.98 < draws.max() <= 1
        assert abs(draws.mean()) < 0.05 and abs(draws.std() - 1 / math.sqrt(3)) < 0.03
        jitter = PositionAugmentation(jitter=2.0)
        draws = torch.stack([jitter(ones)[0] for _ in range(2000)]).log2()
        assert abs(torch.corrcoef(draws.T)[0, 1]) < 0.1

    def test_only_in_training_and_by_the_seed(self):
        model, plain = backbone(**OPTIONS['augmentation']), backbone()
        plain.load_state_dict(model.state_dict())
        x = torch.rand(2, 3, 24, 40)
        with torch.no_grad():
            assert torch.equal(model.eval()(x)[0], plain.eval()(x)[0])
            outs = []
            for seed in (1, 1, 2):
                torch.manual_seed(seed)
                outs.append(model.train()(x)[0])
        assert torch.equal(outs[0], outs[1]) and not torch.allclose(outs[0], outs[2])

    def test_masked_images_of_a_batch_and_packed_ones(self):
        encoder = backbone(MAEVisionLLaMA, **OPTIONS['augmentation'])
        whole, packed = torch.rand(1, 3, 24, 24), [torch.rand(3, 24, 16), torch.rand(3, 16, 16)]
        calls = (
            lambda: encoder(whole, noise=torch.arange(36.0)[None])[0],
            lambda: encoder.forward_packed(packed, True, [torch.arange(24.0), torch.arange(16.0)])[0][0],
        )
        for call in calls:
            outs = []
            for seed in (1, 1, 2):
                torch.manual_seed(seed)
                outs.append(call())
            assert torch.equal(outs[0], outs[1]) and not torch.allclose(outs[0], outs[2])


class TestLogitScale:
    @pytest.mark.parametrize('name, power', [('log_n', 1), ('inverse_log_n', -1)])
    @pytest.mark.parametrize('grid', [(4, 5), (30, 17), (1, 1)])
    def test_formula(self, name, power, grid):
        count = max(grid[0] * grid[1], 2)
        assert log_n_scale(grid, (7, 9), name) == pytest.approx((math.log(count) / math.log(63)) ** power)
        sides = torch.tensor([[grid[0]], [7]]).float(), torch.tensor([[grid[1]], [9]]).float()
        factors = log_n_scale(sides, (7, 9), name)
        assert factors.shape == (2, 1) and factors[1].item() == pytest.approx(1)
        assert factors[0].item() == pytest.approx((math.log(count) / math.log(63)) ** power, rel=1e-5)

    def test_none_at_the_anchor(self):
        assert log_n_scale((7, 9), (7, 9), 'log_n') is None and log_n_scale((9, 7), (7, 9), 'log_n') is None
        assert log_n_scale((3, 4), (7, 9), None) is None

    @pytest.mark.parametrize('name', ['log_n', 'inverse_log_n'])
    def test_logits_of_every_block(self, name):
        model = backbone(logit_scale=name).double().eval()
        scaled = backbone().double().eval()
        x = torch.rand(1, 3, 48, 40, dtype=torch.float64)
        factor = (math.log(120) / math.log(64)) ** (1 if name == 'log_n' else -1)
        with torch.no_grad():
            for layer in scaled.layers:  # q times the factor is logits times the factor
                layer.attn.qkv.weight[:32] *= factor
                layer.attn.qkv.bias[:32] *= factor
            torch.testing.assert_close(model(x)[0], scaled(x)[0], atol=1e-12, rtol=1e-10)


class TestYaRN:
    def test_formula(self):
        """NTK-by-parts with r = L0 theta / (2 pi) turns per axis, ramp between alpha and beta (eq. 18 to 20)."""
        anchor, grid, alpha, beta, base = (10, 10), (20, 15), 0.1, 1.2, 100.0
        x = torch.randn(1, 300, 1, 16, dtype=torch.float64)
        rotary = AS2DRoPE(16, base=base, yarn_range=(2 * math.pi * alpha / 10, 2 * math.pi * beta / 10))
        out = apply_rotary(x, rotary(rotary.positions(grid, anchor, dtype=torch.float64)))
        expected, ramps = x.clone(), set()
        for n in range(300):
            row, column = divmod(n, 15)
            for plane in range(8):
                theta = base ** (-4 * (plane // 2) / 16)
                position, stretch = ((column, 15 / 10), (row, 20 / 10))[plane % 2]
                gamma = min(max((10 * theta / (2 * math.pi) - alpha) / (beta - alpha), 0), 1)
                ramps.add(round(gamma, 3))
                angle = position * ((1 - gamma) * theta / stretch + gamma * theta)
                a, b = x[0, n, 0, 2 * plane], x[0, n, 0, 2 * plane + 1]
                expected[0, n, 0, 2 * plane] = a * math.cos(angle) - b * math.sin(angle)
                expected[0, n, 0, 2 * plane + 1] = a * math.sin(angle) + b * math.cos(angle)
        assert 0 in ramps and 1 in ramps and len(ramps) == 4
        torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)

    def test_changes_nothing_at_the_anchor(self):
        model, plain = backbone(**OPTIONS['yarn']).eval(), backbone().eval()
        with torch.no_grad():
            torch.testing.assert_close(model(torch.ones(1, 3, 32, 32)), plain(torch.ones(1, 3, 32, 32)))
            x = torch.rand(1, 3, 48, 40)
            assert not torch.allclose(model(x)[0], plain(x)[0])


class TestRegisters:
    def test_are_tokens_without_a_position(self):
        model = backbone(num_registers=3, out_type='raw').eval()
        positions = model.rotary_positions((2, 3))
        assert torch.equal(positions[:4], torch.zeros(4, 2)) and len(positions) == 10
        assert model.registers.shape == (1, 3, 32) and model.num_extra_tokens == 4
        x = torch.rand(2, 3, 24, 40)
        with torch.no_grad():
            before = model(x)[0]
            assert before.shape == (2, 64, 32)
            model.registers.copy_(model.registers.flip(1))  # nothing tells one place from another
            after = model(x)[0]
        torch.testing.assert_close(after[:, 4:], before[:, 4:], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(after[:, 1:4], before[:, 1:4].flip(1), atol=2e-5, rtol=1e-4)

    @pytest.mark.parametrize('cls_token', [True, False])
    def test_no_output_holds_them(self, cls_token):
        options = dict(num_registers=3, with_cls_token=cls_token, final_norm=False)
        raw, maps, pooled = (backbone(out_type=kind, **options).eval() for kind in ('raw', 'featmap', 'avg_featmap'))
        x, first = torch.rand(2, 3, 24, 40), 3 + cls_token
        with torch.no_grad():
            tokens = raw(x)[0]
            assert torch.equal(maps(x)[0].flatten(2).transpose(1, 2), tokens[:, first:])
            pooled.load_state_dict(raw.state_dict(), strict=False)
            torch.testing.assert_close(pooled(x)[0], pooled.ln2(tokens[:, first:].mean(1)))
            if cls_token:
                both = backbone(out_type='featmap', output_cls_token=True, **options).eval()
                assert torch.equal(both(x)[0][1], tokens[:, 0])

    def test_stay_beside_the_map_of_peg_and_its_hooks(self):
        model = backbone(num_registers=3, peg=True, out_type='featmap').eval()
        seen = []
        model.patch_map.register_forward_hook(lambda module, args, out: seen.append(out))
        with torch.no_grad():
            assert model(torch.rand(1, 3, 24, 40))[0].shape == seen[0].shape == (1, 32, 6, 10)

    def test_depth_and_freezing(self):
        model = backbone(num_registers=3, frozen_stages=0)
        assert not model.registers.requires_grad
        assert model.get_layer_depth('backbone.registers', 'backbone.')[0] == 0


class TestQKNorm:
    @pytest.mark.parametrize('kind', ['RMSNorm', 'LN'])
    def test_formula(self, kind):
        torch.manual_seed(2)
        attention = RotaryAttention(24, 3, qk_norm_cfg=dict(type=kind, eps=1e-6)).double()
        rotary, x = AS2DRoPE(8), torch.randn(2, 12, 24, dtype=torch.float64)
        table = rotary(rotary.positions((3, 4), dtype=torch.float64))
        for norm in (attention.q_norm, attention.k_norm):
            torch.nn.init.normal_(norm.weight)
        q, k, v = attention.project(x, table)
        weight, bias = attention.qkv.weight, attention.qkv.bias
        for out, rows, norm in ((q, slice(0, 24), attention.q_norm), (k, slice(24, 48), attention.k_norm)):
            plain = (x @ weight[rows].T + bias[rows]).view(2, 12, 3, 8)
            if kind == 'LN':
                plain = plain - plain.mean(-1, keepdim=True)
            normed = plain / (plain.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
            torch.testing.assert_close(out, apply_rotary(normed, table), atol=1e-12, rtol=1e-10)
        assert torch.equal(v, F.linear(x, weight, bias)[..., 48:].view(2, 12, 3, 8))

    def test_logits_do_not_grow_with_the_projection(self):
        model, x = backbone(**OPTIONS['qk-norm']).eval(), torch.rand(1, 3, 24, 40)
        with torch.no_grad():
            before = model(x)[0]
            for layer in model.layers:
                layer.attn.qkv.weight[:64] *= 50
                layer.attn.qkv.bias[:64] *= 50
            torch.testing.assert_close(model(x)[0], before, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize('name', OPTIONS)
class TestEveryOption:
    def test_does_something_only_when_asked_for(self, name):
        model, x = backbone(**OPTIONS[name]), torch.rand(2, 3, 48, 40)
        plain = backbone()
        plain.load_state_dict(model.state_dict(), strict=False)
        with torch.no_grad():
            assert not torch.allclose(model(x)[0], plain(x)[0], atol=1e-4)

    def test_images_of_a_batch_are_as_alone(self, name):
        model = backbone(out_type='avg_featmap', **OPTIONS[name]).eval()
        sizes = [(24, 40), (48, 20), (24, 40)]
        images = [torch.rand(3, *size) for size in sizes]
        batch = torch.zeros(3, 3, 48, 40)
        for target, image in zip(batch, images):
            target[:, : image.shape[1], : image.shape[2]] = image
        with torch.no_grad():
            alone = torch.cat([model(image[None])[0] for image in images])
            torch.testing.assert_close(model(batch, valid_sizes=sizes)[0], alone, atol=1e-5, rtol=0)
            torch.testing.assert_close(model(images)[0], alone, atol=1e-5, rtol=0)

    def test_trains_in_half_precision_with_checkpointed_activations(self, name):
        model, x, grads = backbone(**OPTIONS[name]), torch.rand(2, 3, 24, 40), []
        for with_cp in (False, True):
            model.zero_grad()
            for layer in model.layers:
                layer.with_cp = with_cp
            torch.manual_seed(3)
            with torch.autocast('cpu', torch.bfloat16):
                model(x)[0][:, :5].float().sum().backward()
            grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
        assert all(grad is not None and grad.isfinite().all() for grad in grads[0].values())
        assert all(torch.equal(grad, grads[1][key]) for key, grad in grads[0].items())

    def test_weights_go_to_another_resolution(self, name):
        model, x = backbone(**OPTIONS[name]).eval(), torch.rand(1, 3, 40, 24)
        other = backbone(anchor=48, img_size=48, **OPTIONS[name]).eval()
        other.load_state_dict(copy.deepcopy(model.state_dict()))
        other.anchor_grid = model.anchor_grid
        with torch.no_grad():
            assert torch.equal(model(x)[0], other(x)[0])


class TestNonsense:
    @pytest.mark.parametrize(
        'options, message',
        [
            (dict(num_registers=-1), 'num_registers must be a whole number of at least 0'),
            (
                dict(num_registers=2, window_block_indexes=(0,), with_cls_token=False, out_type='raw'),
                'place for registers',
            ),
            (dict(logit_scale='log'), "unknown logit_scale 'log'"),
            (dict(logit_scale='log_n', anchor=4), 'more than one token'),
            (dict(position_augmentation=dict(rescale=0.5)), 'of at least 1'),
            (dict(position_augmentation=dict(jitter='x')), 'jitter of the positions must be'),
            (dict(position_augmentation=dict()), 'changes nothing'),
            (dict(position_augmentation=dict(shift=1)), 'position_augmentation does not fit'),
            (dict(qk_norm_cfg=dict(type='BN')), 'LN.*RMSNorm'),
            (dict(qk_norm_cfg=dict(type='LN', epsilon=1)), 'norm_cfg does not fit'),
            (dict(rope_cfg=dict(yarn_range=(1, 1))), 'yarn_range must ascend'),
            (dict(rope_cfg=dict(yarn_range=(1, 2), scale='none')), 'scaled positions'),
            (dict(rope_cfg=dict(yarn_range=(1, 2), directions='golden')), 'axial directions'),
            (dict(rope_cfg=dict(yarn_range=(1, 2)), cls_position='released'), 'not known to yarn_range'),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(OptionError, match=message):
            backbone(**options)

    def test_mae_takes_no_registers(self):
        with pytest.raises(ValueError, match='leave num_registers out'):
            backbone(MAEVisionLLaMA, num_registers=2)
