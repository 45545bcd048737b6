"""What tools, heads and methods of the libraries ask of a backbone."""

import types

import pytest
import torch
from torch import nn

from mmvisionllama.backbones import PyramidVisionLLaMA, VisionLLaMA, iLLaMA
from mmvisionllama.errors import OptionError
from mmvisionllama.pretraining import MAEVisionLLaMA

PLAIN = dict(embed_dims=32, num_layers=3, num_heads=2, feedforward_channels=32)
PYRAMID = dict(embed_dims=(16,) * 4, depths=(2,) * 4, num_heads=(2,) * 4, feedforward_channels=(16,) * 4)
PLAINS = {
    'plain': lambda **options: VisionLLaMA(PLAIN, layer_scale_init_value=0.1, **options),
    'iLLaMA': lambda **options: iLLaMA(PLAIN, img_size=64, **options),
    'iLLaMA, token first': lambda **options: iLLaMA(
        PLAIN, img_size=64, cls_token_position='first', mask_mode='none', **options
    ),
}


def test_extra_tokens_are_those_before_the_patches():
    assert VisionLLaMA(PLAIN).num_extra_tokens == 1
    assert VisionLLaMA(PLAIN, with_cls_token=False, out_type='raw').num_extra_tokens == 0
    assert iLLaMA(PLAIN, cls_token_position='first').num_extra_tokens == 1
    assert iLLaMA(PLAIN).num_extra_tokens == 0, 'tools would cut off the first patch'
    assert PyramidVisionLLaMA(PYRAMID).num_extra_tokens == 0
    assert MAEVisionLLaMA(PLAIN).num_extra_tokens == 0


@pytest.mark.parametrize('name', list(PLAINS))
def test_feature_map_and_class_token_are_the_parts_of_the_tokens(name):
    torch.manual_seed(1)
    raw = PLAINS[name](out_type='raw', out_indices=(0, 2)).eval()
    both = PLAINS[name](out_type='featmap', output_cls_token=True, out_indices=(0, 2)).eval()
    both.load_state_dict(raw.state_dict(), strict=True)
    x = torch.rand(2, 3, 64, 96)
    for tokens, (maps, token) in zip(raw(x), both(x)):
        patches, expected = raw.split_token(tokens)
        assert torch.equal(token, expected[:, 0]) and token.shape == (2, 32)
        assert torch.equal(maps, patches.mT.reshape(2, 32, 4, 6))


@pytest.mark.parametrize('options', [dict(out_type='raw'), dict(out_type='featmap', with_cls_token=False)])
def test_a_class_token_beside_the_map_needs_both(options):
    for backbone in (VisionLLaMA, iLLaMA):
        with pytest.raises(ValueError, match="output_cls_token=True needs out_type='featmap'"):
            backbone(PLAIN, output_cls_token=True, **options)


@pytest.mark.parametrize('readout', ['ignore', 'add', 'project'])
@pytest.mark.parametrize('name', list(PLAINS))
def test_feeds_mmseg_s_dpt_head(name, readout):
    head = pytest.importorskip('mmseg.models.decode_heads').DPTHead(
        embed_dims=32,
        post_process_channels=[8, 16, 16, 16],
        num_classes=3,
        readout_type=readout,
        in_channels=[32] * 4,
        channels=8,
        in_index=[0, 1, 2, 3],
        input_transform='multiple_select',
        norm_cfg=dict(type='BN'),
    )
    x = torch.rand(2, 3, 64, 64)
    arch = dict(PLAIN, num_layers=4)
    backbone = type(PLAINS[name]())(arch, out_type='featmap', output_cls_token=True, out_indices=(0, 1, 2, 3))
    outs = backbone(x)
    logits = head(outs)
    assert logits.shape[:2] == (2, 3)
    logits.square().mean().backward()
    assert all(param.grad is not None for param in backbone.parameters())


class Recorder:
    """Activations and gradients as pytorch-grad-cam's hooks take them."""

    def __init__(self, module):
        self.activations, self.gradients = [], []
        self.handle = module.register_forward_hook(self.save)

    def save(self, module, inputs, output):
        self.activations.append(output.detach())
        output.register_hook(lambda grad: self.gradients.append(grad.detach()))

    def cam(self):
        weights = self.gradients[-1].mean((2, 3), keepdim=True)
        return (weights * self.activations[-1]).sum(1).relu()  # [B, H, W]


@pytest.mark.parametrize('name', list(PLAINS))
def test_hooked_patch_map_shows_the_patches_in_their_places_and_changes_nothing(name):
    model = PLAINS[name](out_type='cls_token').eval()
    x = torch.rand(2, 3, 64, 96)
    expected = model(x)[0]
    tokens = []
    model.layers[1].register_forward_hook(lambda module, inputs, output: tokens.append(output))
    recorder = Recorder(model.patch_map)
    out = model(x)[0]
    assert torch.allclose(out, expected, atol=1e-6)
    patches, _ = model.split_token(tokens[0])
    assert torch.equal(recorder.activations[0], patches.mT.reshape(2, 32, 4, 6))
    (out * torch.randn_like(out)).sum().backward()  # the bare sum behind a norm has a gradient of rounding errors
    assert recorder.gradients[0].shape == (2, 32, 4, 6) and recorder.gradients[0].abs().max() > 1e-4
    recorder.handle.remove()
    assert torch.equal(model(x)[0], expected) and len(recorder.activations) == 1


@pytest.mark.parametrize('name', list(PLAINS))
def test_a_class_activation_map_points_at_the_patch_that_decides(name):
    """The score is made to hang on one patch alone; with the class token last, cut off first, it would move by one."""
    model = PLAINS[name](out_type='cls_token').eval()
    recorder = Recorder(model.patch_map)
    x = torch.zeros(1, 3, 64, 64)
    spot = (1, 2)
    x[..., 16:32, 32:48] = 3 * torch.rand(1, 3, 16, 16)
    out = model(x)[0]
    maps = recorder.activations[0]
    away = (maps - maps.mean((2, 3), keepdim=True)).norm(dim=1)[0]
    assert divmod(away.argmax().item(), 4) == spot
    out.sum().backward()
    assert recorder.cam().shape == (1, 4, 4)


@pytest.mark.parametrize('name', ['plain', 'iLLaMA'])
def test_mmpretrain_s_vis_cam_takes_the_patch_map(name, tmp_path):
    """The tool's own reshaping: a map passes as it is, and iLLaMA's raw tokens are refused instead of shifted."""
    vis_cam = load_tool('visualization/vis_cam.py')
    backbone = PLAINS[name](out_type='cls_token').eval()
    model = types.SimpleNamespace(backbone=backbone)
    recorder = Recorder(backbone.patch_map)
    tokens = []
    backbone.layers[1].register_forward_hook(lambda module, inputs, output: tokens.append(output))
    backbone(torch.rand(1, 3, 64, 64))
    args = types.SimpleNamespace(vit_like=False, num_extra_tokens=None)
    maps = vis_cam.reshape_transform(recorder.activations[0], model, args)
    patches, _ = backbone.split_token(tokens[0])
    assert torch.equal(maps.flatten(2).mT, patches)
    args.vit_like = True
    if name == 'plain':
        assert torch.equal(vis_cam.reshape_transform(tokens[0], model, args), maps)
    else:
        with pytest.raises(AssertionError, match='not a perfect square'):
            vis_cam.reshape_transform(tokens[0], model, args)


def load_tool(path):
    """A tool that mmpretrain installs, as a module; skips where pytorch-grad-cam or the tool is missing."""
    import importlib.util
    import sys
    from pathlib import Path
    from unittest import mock

    mmpretrain = pytest.importorskip('mmpretrain')
    file = Path(mmpretrain.__file__).parent / '.mim/tools' / path
    if not file.exists():
        pytest.skip(f'this installation of mmpretrain has no {path}')
    spec = importlib.util.spec_from_file_location('tool_under_test', file)
    module = importlib.util.module_from_spec(spec)
    # pytorch-grad-cam is only imported, not used, by what is tested here
    missing = ('', '.activations_and_gradients', '.utils', '.utils.image')
    stand_in = mock.MagicMock()
    stand_in.base_cam.BaseCAM = type('BaseCAM', (), {})
    with mock.patch.dict(sys.modules, {f'pytorch_grad_cam{name}': stand_in for name in missing}):
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('build', [*PLAINS.values(), lambda: PyramidVisionLLaMA(PYRAMID)], ids=[*PLAINS, 'pyramid'])
def test_hooks_on_every_linear_layer_and_norm_fire(build, training):
    """Distillation recorders, activation statistics and per-sample gradients rely on it, in training above all."""
    model = build().train(training)
    fired = set()
    watched = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.LayerNorm)) or type(module).__name__ in ('LayerScale', 'DropPath'):
            watched[name] = module
            module.register_forward_hook(lambda module, inputs, output, name=name: fired.add(name))
    x = torch.rand(4, 3, 64, 64)  # more tokens than channels
    model(x)
    assert set(watched) - fired <= {f'norms.{stage}' for stage in (0, 1, 2)}
    assert any(name.endswith('attn.proj') for name in fired) and any(name.endswith('ffn.down') for name in fired)


@pytest.mark.parametrize(
    'build',
    [
        lambda: VisionLLaMA(PLAIN),
        lambda: iLLaMA(PLAIN),
        lambda: PyramidVisionLLaMA(PYRAMID),
        lambda: MAEVisionLLaMA(PLAIN),
    ],
    ids=['plain', 'iLLaMA', 'pyramid', 'MAE'],
)
def test_methods_that_hand_over_a_mask_are_told_what_to_use(build):
    """SimMIM, BEiT and MaskFeat call ``backbone(images, mask)``."""
    with pytest.raises(OptionError, match='MAE takes MAEVisionLLaMA'):
        build()(torch.rand(1, 3, 64, 64), torch.ones(1, 4, 4))


def test_a_mask_of_none_gives_the_features():
    """MAE's extract_feat calls ``backbone(images, mask=None)``."""
    x = torch.rand(1, 3, 64, 64)
    for model in (VisionLLaMA(PLAIN), iLLaMA(PLAIN), PyramidVisionLLaMA(PYRAMID), MAEVisionLLaMA(PLAIN)):
        model.eval()
        assert isinstance(model(x, mask=None), tuple)


@pytest.mark.parametrize('out_type', ['avg_featmap', 'cls_token'])
@pytest.mark.parametrize('name', list(PLAINS))
def test_freezing_all_blocks_freezes_the_norms_after_them(name, out_type):
    model = PLAINS[name](out_type=out_type, frozen_stages=3)
    assert not any(param.requires_grad for param in model.parameters())
    model.train()
    assert not model.ln1.training
    assert any(param.requires_grad for param in PLAINS[name](out_type=out_type, frozen_stages=2).parameters())


@pytest.mark.parametrize('alpha', [0.0, 0.5, 1.0])
def test_the_soft_mask_survives_meta_and_to_empty(alpha):
    model = iLLaMA(PLAIN, soft_mask=alpha).eval()
    with torch.device('meta'):
        empty = iLLaMA(PLAIN, soft_mask=alpha)
    parent = nn.Sequential(empty).to_empty(device='cpu')
    empty.load_state_dict(model.state_dict(), strict=True)
    x = torch.rand(1, 3, 64, 64)
    assert parent[0].alpha.item() == alpha == empty.soft_mask
    assert torch.equal(empty.eval()(x)[0], model(x)[0])
    assert empty.half().float().alpha.item() == alpha
    with torch.device('meta'):
        empty = iLLaMA(PLAIN, soft_mask=alpha).half()
    nn.Sequential(empty).load_state_dict({f'0.{key}': value for key, value in model.state_dict().items()}, assign=True)
    assert empty.alpha.device.type == 'cpu' and empty.alpha.item() == alpha
    assert torch.equal(empty.eval()(x)[0], model(x)[0])
