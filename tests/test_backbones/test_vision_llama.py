"""Plain VisionLLaMA: every architecture, every output, any input size, precision, compilation, state."""

import copy
import logging

import pytest
import torch
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmvisionllama.backbones import VisionLLaMA
from mmvisionllama.checkpoints import CheckpointError
from mmvisionllama.layers import GELUFFN, RMSNorm
from mmvisionllama.layers.rotary import axis_scales

TINY = dict(embed_dims=32, num_layers=3, num_heads=2, feedforward_channels=48)
SIZES = [(64, 64), (32, 96), (70, 45)]  # square, wide, no multiple of the patch


def tiny(**kwargs):
    """A small model whose every branch matters."""
    return randomised(VisionLLaMA(**{'arch': TINY, 'layer_scale_init_value': 0.5, **kwargs}))


def randomised(model):
    for name, param in model.named_parameters():
        if 'qkv.weight' in name:  # attention far from uniform
            nn.init.normal_(param, std=1.4 / param.shape[1] ** 0.5)
    return model


def shallow(name):
    """One block of a named architecture, at its full width."""
    return dict(VisionLLaMA.resolve_arch(name), num_layers=1)


def step(model, x):
    """Gradients of one backward pass."""
    model.zero_grad()
    sum(out.square().mean() for out in model(x)).backward()
    return {name: param.grad for name, param in model.named_parameters()}


@pytest.fixture
def counters():
    """Number of graphs that torch.compile made in the test."""
    import torch._dynamo as dynamo

    dynamo.reset()
    dynamo.utils.counters.clear()
    yield dynamo.utils.counters
    dynamo.reset()


class TestFigures:
    @pytest.mark.parametrize(
        ('arch', 'params', 'gmacs'),
        [('small', 21_961_192, 4.60), ('base', 86_388_712, 17.56), ('large', 310_342_632, 62.79)],
    )
    def test_parameters_and_macs_with_a_1000_class_head(self, arch, params, gmacs):
        with torch.device('meta'):
            model = VisionLLaMA(arch)
            head = nn.Linear(model.embed_dims, 1000)
            image = torch.empty(1, 3, 224, 224)
        assert sum(p.numel() for p in [*model.parameters(), *head.parameters()]) == params
        with FlopCounterMode(display=False) as counter:
            head(model(image)[0])
        assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=0.01)


@pytest.mark.parametrize('arch', list(VisionLLaMA.arch_zoo))
class TestEveryArchitecture:
    def test_forward_and_backward(self, arch):
        model = VisionLLaMA(shallow(arch), out_type='raw')
        for height, width in SIZES[1:]:
            grads = step(model, torch.randn(1, 3, height, width))
            assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
            tokens = 1 + -(-height // 16) * -(-width // 16)
            with torch.no_grad():
                (out,) = model(torch.randn(2, 3, height, width))
            assert out.shape == (2, tokens, model.embed_dims) and out.isfinite().all()

    def test_weights_load_at_other_sizes(self, arch):
        source = VisionLLaMA(shallow(arch), img_size=224).eval()
        state = source.state_dict()
        assert not [key for key in state if 'pos' in key or 'rot' in key or 'rope' in key or 'freq' in key]
        assert len(state) == len(list(source.parameters()))  # no buffers
        for size in (512, (160, 352)):
            target = VisionLLaMA(shallow(arch), img_size=size).eval()
            target.load_state_dict(state, strict=True)
            height, width = (size, size) if isinstance(size, int) else size
            image = torch.randn(1, 3, height // 2, width // 2)
            with torch.no_grad():  # the anchor does not follow img_size
                assert torch.equal(target(image)[0], source(image)[0])

    def test_bf16_autocast_is_close(self, arch):
        model = randomised(VisionLLaMA(shallow(arch), layer_scale_init_value=1.0)).eval()
        image = torch.randn(2, 3, 64, 48)
        with torch.no_grad():
            (full,) = model(image)
            with torch.autocast('cpu', torch.bfloat16):
                (half,) = model(image)
        assert (half.float() - full).norm() < 3e-2 * full.norm()
        assert not torch.equal(half.float(), full)

    def test_compiles_whole(self, arch, counters):
        model = VisionLLaMA(shallow(arch), layer_scale_init_value=0.5).eval()
        compiled = torch.compile(model, fullgraph=True, backend='eager')  # the graph alone; kernels are tested below
        with torch.no_grad():
            for height, width in ((64, 64), (32, 96), (96, 48)):
                image = torch.randn(1, 3, height, width)
                torch.testing.assert_close(compiled(image)[0], model(image)[0], atol=1e-4, rtol=1e-4)
        assert counters['stats']['unique_graphs'] <= 3


class TestCompiled:
    @pytest.mark.nightly
    def test_inductor(self, counters):
        model = tiny(arch=dict(TINY, num_layers=1)).eval()
        compiled = torch.compile(model, fullgraph=True)
        with torch.no_grad():
            for height, width in ((64, 64), (32, 96), (96, 48)):
                image = torch.randn(1, 3, height, width)
                torch.testing.assert_close(compiled(image)[0], model(image)[0], atol=1e-4, rtol=1e-4)
        assert counters['stats']['unique_graphs'] <= 3

    @pytest.mark.parametrize(
        'kwargs',
        [
            pytest.param(dict(), marks=pytest.mark.nightly),
            dict(with_cp=True),
            dict(out_type='featmap', with_cls_token=False, window_size=3, window_block_indexes=(0,)),
            dict(
                rope_cfg=dict(share_heads=False, ratio=0.5),
                cls_position='above_top_right',
                peg=True,
                abs_pos_embed=True,
            ),
        ],
    )
    def test_training(self, counters, kwargs):
        model = tiny(arch=dict(TINY, num_layers=1), **kwargs)
        compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
        for height, width in ((64, 64), (70, 45)):
            image = torch.randn(1, 3, height, width)
            expected = {name: grad.clone() for name, grad in step(model, image).items()}
            model.zero_grad()
            sum(out.square().mean() for out in compiled(image)).backward()
            for name, param in model.named_parameters():
                torch.testing.assert_close(param.grad, expected[name], atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize('kwargs', [dict(), dict(window_size=3, window_block_indexes=(0,))])
    def test_exported_graph_is_real_and_equal(self, kwargs):
        model = tiny(out_type='featmap', with_cls_token=False, **kwargs).eval()
        image = torch.randn(1, 3, 70, 45)
        graph = torch.export.export(model, (image,))
        torch.testing.assert_close(graph.module()(image)[0], model(image)[0], atol=1e-5, rtol=1e-5)
        values = [node.meta.get('val') for node in graph.graph.nodes]
        assert not any(value.is_complex() for value in values if isinstance(value, torch.Tensor))

    def test_onnx(self, tmp_path):
        pytest.importorskip('onnx')
        runtime = pytest.importorskip('onnxruntime')
        model, image = tiny(out_type='featmap').eval(), torch.randn(1, 3, 64, 48)
        torch.onnx.export(model, (image,), tmp_path / 'model.onnx', dynamo=False, input_names=['image'])
        out = runtime.InferenceSession(tmp_path / 'model.onnx').run(None, {'image': image.numpy()})[0]
        torch.testing.assert_close(torch.from_numpy(out), model(image)[0].detach(), atol=1e-4, rtol=1e-4)


class TestAnySizeAndState:
    def test_same_as_a_fresh_model_after_anything(self):
        model = tiny()
        fresh = copy.deepcopy(model)
        image = torch.randn(2, 3, 70, 45)
        with torch.inference_mode():
            model(torch.randn(1, 3, 45, 70))
            model(image)
        model.to(torch.float64)(torch.randn(1, 3, 64, 64).double())
        model.to(torch.float32)
        grads, expected = step(model, image), step(fresh, image)
        assert torch.equal(model(image)[0], fresh(image)[0])
        for name, grad in grads.items():
            assert torch.equal(grad, expected[name]), name

    def test_unscaled_and_scaled_agree_at_the_anchor_only(self):
        auto, plain = tiny(anchor=(64, 96)), tiny(anchor=(64, 96), rope_cfg=dict(scale='none'))
        plain.load_state_dict(auto.state_dict())
        auto.eval(), plain.eval()
        at_anchor, larger = torch.randn(1, 3, 64, 96), torch.randn(1, 3, 128, 96)
        assert torch.equal(auto(at_anchor)[0], plain(at_anchor)[0])
        assert (auto(larger)[0] - plain(larger)[0]).abs().max() > 1e-4

    def test_anchor_is_224_whatever_img_size(self):
        assert VisionLLaMA(TINY, img_size=512).anchor_grid == (14, 14)
        assert VisionLLaMA(TINY, anchor=(160, 352)).anchor_grid == (10, 22)

    def test_double_precision_is_kept(self):
        model = tiny().double().eval()
        image = torch.randn(1, 3, 64, 96, dtype=torch.float64)
        exact = model(image)[0]
        assert exact.dtype == torch.float64
        # central difference of the whole model along one direction, visible only without fp32 inside
        image.requires_grad_()
        direction, eps, weight = torch.randn_like(image), 1e-6, torch.randn_like(exact)
        (grad,) = torch.autograd.grad((model(image)[0] * weight).sum(), image)
        with torch.no_grad():
            slope = (model(image + eps * direction)[0] - model(image - eps * direction)[0]) / (2 * eps)
        torch.testing.assert_close((slope * weight).sum(), (grad * direction).sum(), atol=0, rtol=1e-6)

    def test_second_derivatives(self):
        model = tiny(arch=dict(TINY, num_layers=1), backend='eager', drop_path_rate=0.0).double()
        image = torch.randn(1, 3, 16, 32, dtype=torch.float64)

        def along(t):
            return model(image + t * image.flip(-1))[0].sin().sum()

        assert torch.autograd.gradgradcheck(along, (torch.tensor(0.3, dtype=torch.float64, requires_grad=True),))

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize('with_cls_token', [True, False])
    def test_residual_stream_stays_fp32_under_autocast(self, dtype, with_cls_token):
        model = tiny(with_cls_token=with_cls_token, out_type='raw', final_norm=False)
        seen = []
        model.layers[1].register_forward_hook(lambda module, args, out: seen.append((args[0], args[1], out)))
        with torch.autocast('cpu', dtype):
            model(torch.randn(1, 3, 64, 48))
        ((x, context, out),) = seen
        assert x.dtype == out.dtype == context.rope.cos.dtype == torch.float32

    def test_pure_half_model(self):
        model, image = tiny().eval(), torch.randn(1, 3, 64, 48)
        (full,) = model(image)
        (half,) = model.to(torch.bfloat16)(image.bfloat16())
        assert half.dtype == torch.bfloat16
        assert (half.float() - full).norm() < 3e-2 * full.norm()

    def test_tables_are_built_once_per_forward(self):
        model, calls = tiny(), []
        model.rotary.register_forward_hook(lambda *args: calls.append(1))
        model(torch.randn(1, 3, 64, 64))
        assert len(calls) == 1

    def test_padding_adds_zeros_right_and_bottom(self):
        model, image = tiny(out_type='featmap').eval(), torch.randn(1, 3, 50, 33)
        padded = torch.zeros(1, 3, 64, 48)
        padded[:, :, :50, :33] = image
        assert torch.equal(model(image)[0], model(padded)[0])

    def test_memory_format_does_not_matter(self):
        model, image = tiny().eval(), torch.randn(2, 3, 64, 48)
        torch.testing.assert_close(model(image.contiguous(memory_format=torch.channels_last))[0], model(image)[0])

    def test_patch_projection_is_a_convolution(self):
        model, image = tiny(patch_size=(8, 4)), torch.randn(2, 3, 16, 24)
        tokens, grid = model.patch_embed(image)
        weights = model.patch_embed.projection
        maps = nn.functional.conv2d(image, weights.weight, weights.bias, stride=(8, 4))
        assert grid == (2, 6)
        torch.testing.assert_close(tokens, maps.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)


class TestOutputs:
    @pytest.mark.parametrize(
        ('out_type', 'shape'),
        [('cls_token', (32,)), ('avg_featmap', (32,)), ('featmap', (32, 5, 3)), ('raw', (16, 32))],
    )
    def test_shapes(self, out_type, shape):
        outs = tiny(out_type=out_type, out_indices=(0, -1))(torch.randn(2, 3, 70, 45))
        assert [out.shape for out in outs] == [(2, *shape)] * 2

    def test_outputs_belong_together(self):
        image = torch.randn(1, 3, 32, 48)
        state, outs = None, {}
        for out_type in VisionLLaMA.OUT_TYPES:
            model = tiny(out_type=out_type).eval()
            state = state or model.state_dict()
            model.load_state_dict(state, strict=out_type != 'avg_featmap')
            outs[out_type] = model(image)[0]
        raw = outs['raw']
        assert torch.equal(outs['cls_token'], raw[:, 0])
        assert torch.equal(outs['featmap'], raw[:, 1:].transpose(1, 2).reshape(1, 32, 2, 3))
        pooled = nn.functional.layer_norm(raw[:, 1:].mean(dim=1), (32,), eps=1e-6)
        torch.testing.assert_close(outs['avg_featmap'], pooled)

    def test_final_norm_is_on_the_last_block_only(self):
        model = tiny(out_type='raw', out_indices=(1, 2))
        middle, last = model(torch.randn(1, 3, 64, 64))
        torch.testing.assert_close(last.mean(dim=-1), torch.zeros(1, 17), atol=1e-5, rtol=0)
        assert middle.mean(dim=-1).abs().max() > 1e-4

    @pytest.mark.parametrize(
        'kwargs',
        [dict(), dict(out_type='featmap', with_cls_token=False), dict(out_type='avg_featmap', final_norm=False)],
    )
    def test_no_parameter_is_left_without_a_gradient(self, kwargs):
        assert all(grad is not None for grad in step(tiny(**kwargs), torch.randn(1, 3, 64, 64)).values())

    def test_windowed_blocks(self):
        kwargs = dict(out_type='raw', with_cls_token=False, anchor=64)
        full, windowed = tiny(**kwargs), tiny(window_size=4, window_block_indexes=(0, -1), **kwargs)
        windowed.load_state_dict(full.state_dict())
        assert windowed.window_block_indexes == {0, 2}
        one_window, four = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 128, 128)
        # a single window of the anchor's size is the whole map
        torch.testing.assert_close(windowed(one_window)[0], full(one_window)[0], atol=1e-5, rtol=1e-5)
        assert (windowed(four)[0] - full(four)[0]).abs().max() > 1e-3


class TestClassToken:
    GRID = (3, 5)

    def positions(self, **kwargs):
        return tiny(**kwargs).rotary_positions(self.GRID)

    def test_origin_by_default(self):
        assert self.positions()[0].tolist() == [0, 0]
        assert self.positions(rope_cfg=dict(kind='1d'))[0].tolist() == [0]

    @pytest.mark.parametrize(('cls_position', 'row'), [('above_top_right', -1), ('top_right', 0)])
    @pytest.mark.parametrize('scale', ['none', 'per_axis', 'height'])
    def test_released(self, cls_position, row, scale):
        positions = self.positions(cls_position=cls_position, rope_cfg=dict(scale=scale))
        scale_x, scale_y = axis_scales(self.GRID, (14, 14), scale)
        assert positions[0].tolist() == pytest.approx([4 * scale_x, row * scale_y])
        assert torch.equal(
            positions[1:], self.positions(with_cls_token=False, out_type='raw', rope_cfg=dict(scale=scale))
        )

    def test_unrotated_token_is_position_free(self):
        table = tiny().rotary(self.positions())
        assert torch.all(table.cos[0] == 1) and torch.all(table.sin[0] == 0)


class TestAblations:
    """Table 7, each row by an argument."""

    ROWS = {
        'a GELU': dict(ffn_cfg=dict(type='gelu')),
        'b RMSNorm': dict(norm_cfg=dict(type='RMSNorm', eps=1e-6)),
        'c 25 %': dict(rope_cfg=dict(ratio=0.25)),
        'c 50 %': dict(rope_cfg=dict(ratio=0.5)),
        'd base 100': dict(rope_cfg=dict(base=100)),
        'd base 1000': dict(rope_cfg=dict(base=1000)),
        'd base 100000': dict(rope_cfg=dict(base=100000)),
        'e not shared': dict(rope_cfg=dict(share_heads=False)),
        'f GAP': dict(out_type='avg_featmap', with_cls_token=False, final_norm=False),
        'g learnable': dict(abs_pos_embed=True, img_size=(32, 48)),
        'g PEG': dict(peg=True),
        'Table 12 1D': dict(rope_cfg=dict(kind='1d')),
        'Table 12 2D': dict(rope_cfg=dict(scale='none')),
        'Table 12 NTK': dict(rope_cfg=dict(ntk_alpha=5)),
    }

    @pytest.mark.parametrize('row', ROWS)
    def test_changes_the_model_and_trains(self, row):
        model, default = tiny(**self.ROWS[row]), tiny()
        image = torch.randn(2, 3, 32, 48)
        assert all(grad is not None for grad in step(model, image).values())
        shared = {key: value for key, value in default.state_dict().items() if key in model.state_dict()}
        if 'rope_cfg' in self.ROWS[row]:  # the same weights
            model.load_state_dict(shared, strict=True)
        elif row[0] == 'g':
            added = set(model.state_dict()) - set(shared)
            assert added == ({'pos_embed'} if 'learnable' in row else {'peg.conv.weight', 'peg.conv.bias'})
            model.load_state_dict(shared, strict=False)
        assert (model(image)[0] - default(image)[0]).abs().max() > 1e-5

    def test_layers_of_the_rows(self):
        assert isinstance(tiny(ffn_cfg=dict(type='gelu')).layers[0].ffn, GELUFFN)
        wide = VisionLLaMA(dict(embed_dims=32, num_layers=1, num_heads=2), ffn_cfg=dict(type='gelu'))
        assert wide.layers[0].ffn.up.out_features == 128
        rms = tiny(norm_cfg=dict(type='RMSNorm', eps=1e-6), pre_norm=True)
        norms = [m for m in rms.modules() if isinstance(m, nn.LayerNorm)]
        assert len(norms) == 8 and all(isinstance(m, RMSNorm) for m in norms)

    def test_learnable_embedding_is_resized(self):
        model = tiny(abs_pos_embed=True, img_size=64)
        assert model.pos_embed.shape == (1, 16, 32)
        larger = tiny(abs_pos_embed=True, img_size=(96, 128))
        larger.load_state_dict(model.state_dict(), strict=True)
        maps = model.pos_embed.detach().transpose(1, 2).view(1, 32, 4, 4)
        expected = nn.functional.interpolate(maps, size=(6, 8), mode='bicubic', align_corners=False)
        torch.testing.assert_close(larger.pos_embed.detach(), expected.flatten(2).transpose(1, 2))
        image = torch.randn(1, 3, 96, 128)  # resized at call or at loading time: the same
        torch.testing.assert_close(larger.eval()(image)[0], model.eval()(image)[0], atol=1e-5, rtol=1e-5)
        with pytest.raises(RuntimeError, match='pos_embed'):  # 6 x 8 positions are no square
            model.load_state_dict(larger.state_dict())


class TestTraining:
    def test_initial_values(self):
        model = VisionLLaMA(dict(embed_dims=64, num_layers=2, num_heads=2))
        for layer in model.layers:
            assert layer.attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert layer.ffn.down.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert not layer.attn.qkv.bias.any() and not layer.attn.proj.bias.any()
            assert torch.all(layer.ls1.weight == 1e-4) and torch.all(layer.ls2.weight == 1e-4)
        assert 0.01 < model.cls_token.std().item() < 0.03

    @pytest.mark.parametrize(('mode', 'rates'), [('linear', [0.0, 0.1, 0.2]), ('uniform', [0.2, 0.2, 0.2])])
    def test_drop_path_rates(self, mode, rates):
        model = tiny(drop_path_rate=0.2, drop_path_mode=mode)
        assert [layer.drop_path.drop_prob for layer in model.layers] == pytest.approx(rates)

    def test_positions_of_a_frozen_backbone_are_not_random(self):
        images = torch.randn(1, 3, 64, 64)
        for frozen, same in ((2, False), (3, True)):
            model = tiny(frozen_stages=frozen, position_augmentation=dict(rescale=2.0)).train()
            assert torch.equal(model(images)[0], model(images)[0]) == same

    @pytest.mark.parametrize('frozen', [-1, 0, 2, 3])
    def test_frozen_stages(self, frozen):
        model = tiny(frozen_stages=frozen, drop_path_rate=0.5, peg=True, abs_pos_embed=True, img_size=64).train()
        parts = dict(model.named_parameters())
        for name, param in parts.items():
            depth = model.get_layer_depth(name)[0] if not name.startswith('ln1') else model.num_layers + 1
            is_frozen = depth <= frozen if depth <= model.num_layers else frozen == model.num_layers
            assert param.requires_grad == (not is_frozen), name
        assert [layer.training for layer in model.layers] == [i >= frozen for i in range(3)]
        if frozen < model.num_layers:
            before = {name: param.detach().clone() for name, param in parts.items()}
            trained = [param for param in parts.values() if param.requires_grad]
            model(torch.randn(4, 3, 64, 64))[0].square().sum().backward()
            torch.optim.SGD(trained, lr=1.0).step()
            moved = {name for name, param in parts.items() if not torch.equal(param, before[name])}
            assert moved and not any(model.get_layer_depth(name)[0] <= frozen for name in moved)

    def test_layer_depths(self):
        model = tiny(pre_norm=True, peg=True, abs_pos_embed=True, out_type='avg_featmap')
        depths = {name: model.get_layer_depth('backbone.' + name, 'backbone.') for name in model.state_dict()}
        assert {total for _, total in depths.values()} == {5}
        expected = {'cls_token': 0, 'pos_embed': 0, 'patch_embed.projection.weight': 0, 'pre_norm.weight': 0}
        expected |= {'layers.0.ls1.weight': 1, 'peg.conv.weight': 1, 'layers.2.ffn.up.weight': 3}
        expected |= {'ln1.weight': 4, 'ln2.bias': 4}
        assert {name: depths[name][0] for name in expected} == expected
        assert model.get_layer_depth('head.fc.weight', 'backbone.') == (4, 5)

    def test_depths_are_mmpretrains(self):
        vit = pytest.importorskip('mmpretrain.models').VisionTransformer(
            arch=dict(embed_dims=32, num_layers=3, num_heads=2, feedforward_channels=48), img_size=64
        )
        model = tiny()
        for name in ('cls_token', 'patch_embed.projection.bias', 'layers.1.ln2.weight', 'layers.2.attn.qkv.weight'):
            theirs = vit.get_layer_depth('backbone.' + name, 'backbone.')
            assert model.get_layer_depth('backbone.' + name, 'backbone.') == theirs

    def test_checkpointing_of_every_kind_of_block(self):
        kwargs = dict(out_type='featmap', with_cls_token=False, window_size=3, window_block_indexes=(0,))
        plain, recomputed = tiny(**kwargs), tiny(with_cp=True, **kwargs)
        recomputed.load_state_dict(plain.state_dict())
        image = torch.randn(1, 3, 64, 80)
        expected, grads = step(plain, image), step(recomputed, image)
        for name in expected:
            torch.testing.assert_close(grads[name], expected[name])


class TestBuilding:
    def test_from_the_registry(self):
        model = MODELS.build(dict(type='VisionLLaMA', arch='s', out_type='featmap', frozen_stages=1))
        assert model.embed_dims == 384 and model.num_layers == 12 and model.layers[0].ffn.up.out_features == 1024

    def test_import_needs_no_other_library(self):
        import subprocess
        import sys

        code = 'import sys, mmvisionllama; print([m for m in sys.modules if m in %r])'
        others = ('mmcv', 'mmpretrain', 'mmseg', 'mmdet', 'timm', 'diffusers', 'torchvision')
        out = subprocess.run([sys.executable, '-c', code % (others,)], capture_output=True, text=True, check=True)
        assert out.stdout.strip() == '[]'

    @pytest.mark.parametrize(
        ('kwargs', 'words'),
        [
            (dict(arch='huge'), 'small, base, large'),
            (dict(arch=dict(embed_dims=32)), 'lacks num_layers, num_heads'),
            (dict(arch=dict(TINY, num_heads=5)), 'num_heads 5 does not divide embed_dims 32'),
            (dict(arch=dict(embed_dims=36, num_layers=1, num_heads=2)), 'multiple of 4'),
            (dict(out_indices=3), r'out_indices 3 is out of range: there are 3 \(0 ... 2\)'),
            (dict(out_indices=(0, -4)), 'out_indices -4 is out of range'),
            (dict(frozen_stages=4), 'frozen_stages'),
            (dict(out_type='pooled'), "'featmap'"),
            (dict(with_cls_token=False), "out_type='cls_token' needs with_cls_token=True"),
            (dict(cls_position='centre'), "'origin', 'above_top_right'"),
            (dict(cls_position='top_right', rope_cfg=dict(kind='1d')), '1D RoPE'),
            (dict(window_block_indexes=(0,)), 'with_cls_token=False'),
            (dict(drop_path_mode='cosine'), "'linear', 'uniform'"),
            (dict(backend='fast'), "'auto', 'eager', 'sdpa'"),
            (dict(anchor=(1, 2, 3)), 'pair'),
        ],
    )
    def test_errors(self, kwargs, words):
        with pytest.raises(ValueError, match=words):
            VisionLLaMA(**{'arch': TINY, **kwargs})

    def test_wrong_image_channels(self):
        with pytest.raises(ValueError, match=r'expected images of shape \(B, 3, H, W\), got \(1, 4, 32, 32\)'):
            tiny()(torch.randn(1, 4, 32, 32))
        with pytest.raises(ValueError, match='expected images'):
            tiny()(torch.randn(3, 32, 32))


class TestPretrained:
    def test_init_cfg(self, tmp_path, caplog):
        source = tiny()
        file = tmp_path / 'source.pth'
        state = {f'backbone.{key}': value for key, value in source.state_dict().items()}
        torch.save(dict(state_dict=dict(state, **{'head.fc.weight': torch.zeros(3, 3)}), meta={}), file)
        model = tiny(init_cfg=dict(type='Pretrained', checkpoint=str(file), prefix='backbone.'))
        with caplog.at_level(logging.INFO):
            nn.ModuleDict(dict(backbone=model))['backbone'].init_weights()
        for key, value in source.state_dict().items():
            assert torch.equal(model.state_dict()[key], value)
        assert model.init_cfg['type'] == 'StrictPretrained'  # a second call would load again

    @pytest.mark.parametrize('kind', [PretrainedInit, 'mmengine.model.PretrainedInit', 'mmengine.Pretrained'])
    def test_other_names_of_the_initialiser_are_as_strict(self, tmp_path, kind):
        """As pure Python configs write it, as they are dumped, and with a scope."""
        torch.save({f'module_.{key}': value for key, value in tiny().state_dict().items()}, tmp_path / 'a.pth')
        model = tiny(init_cfg=[dict(type='Constant', layer='Linear', val=1), dict(type=kind, checkpoint='a.pth')])
        assert [cfg['type'] for cfg in model.init_cfg] == ['Constant', 'StrictPretrained']
        model = tiny(init_cfg=dict(type=kind, checkpoint=str(tmp_path / 'a.pth')))
        with pytest.raises(CheckpointError, match='lacks 100% of the weights'):
            model.init_weights()
