"""Numbers that mean nothing, typos and texts in the place of flags: one clear line, never a wrong model."""

import math

import pytest
import torch
from torch import nn

from mmvisionllama.backbones import PyramidVisionLLaMA, VisionLLaMA, iLLaMA
from mmvisionllama.errors import OptionError
from mmvisionllama.generation import DiTLLaMA
from mmvisionllama.layers import build_norm
from mmvisionllama.pretraining import MAEVisionLLaMA

PLAIN = dict(embed_dims=16, num_layers=2, num_heads=2)
STAGES = dict(embed_dims=(8, 16), depths=(1, 2), num_heads=(1, 2))
NAN = math.nan
SIZES = dict(img_size=16, anchor=16, patch_size=4)
MODELS = {
    VisionLLaMA: dict(arch=PLAIN, **SIZES),
    iLLaMA: dict(arch=PLAIN, **SIZES),
    MAEVisionLLaMA: dict(arch=PLAIN, **SIZES),
    PyramidVisionLLaMA: dict(arch=STAGES, anchor=32, out_indices=(0, 1)),
    DiTLLaMA: dict(arch=PLAIN, patch_size=2, num_classes=10, anchor=8),
}


def build(model, arch=None, **options):
    settings = dict(MODELS[model], **options)
    if isinstance(arch, dict):
        settings['arch'] = dict(settings['arch'], **arch)
    return model(**settings)


@pytest.mark.parametrize('model', list(MODELS))
@pytest.mark.parametrize('key', ['mlp_ratio', 'feedforward_channel', 'num_layer'])
def test_a_typo_in_the_arch_dict_is_named(model, key):
    with pytest.raises(OptionError, match=f'does not know {key}: its keys are embed_dims'):
        build(model, arch={key: 3})


@pytest.mark.parametrize('model', list(MODELS))
@pytest.mark.parametrize('anchor', [0, -4, (0, 8), 16.5, NAN, None, '224', (8, 8, 8), True])
def test_an_anchor_is_a_size_in_pixels(model, anchor):
    with pytest.raises(OptionError, match='anchor must be a positive whole number or a .height, width. pair'):
        build(model, anchor=anchor)


@pytest.mark.parametrize('model', [VisionLLaMA, iLLaMA, PyramidVisionLLaMA])
@pytest.mark.parametrize('name', ['norm_cfg', 'ffn_cfg', 'rope_cfg'])
def test_options_come_in_a_dictionary(model, name):
    with pytest.raises(OptionError, match=f"{name} must be a dictionary of options, got 'LN'"):
        build(model, **{name: 'LN'})


@pytest.mark.parametrize(
    'model, options, message',
    [
        (VisionLLaMA, dict(qk_norm_cfg=True), 'qk_norm_cfg must be a dictionary'),
        (VisionLLaMA, dict(position_augmentation=2.0), 'position_augmentation must be a dictionary'),
        (VisionLLaMA, dict(output_cls_token='False'), "output_cls_token must be True or False, got 'False'"),
        (VisionLLaMA, dict(rope_cfg=dict(num_directions=3)), "num_directions is an option of directions='spiral'"),
        (
            VisionLLaMA,
            dict(with_cls_token=False, out_type='featmap', cls_position='above_top_right'),
            'places the class token: set with_cls_token=True',
        ),
        (iLLaMA, dict(with_rope=False, rope_cfg=dict(base=100)), 'set with_rope=True, or leave it out'),
        (PyramidVisionLLaMA, dict(rope_cfg=dict(anchor=(14, 14))), 'anchor, which is an argument of the backbone'),
    ],
)
def test_options_that_would_do_nothing_or_collide(model, options, message):
    with pytest.raises(OptionError, match=message):
        build(model, **options)


@pytest.mark.parametrize('model', [VisionLLaMA, iLLaMA, PyramidVisionLLaMA])
def test_dropout_of_the_feed_forward_layer_goes_before_the_backbones(model):
    def rates(**options):
        return {
            m.p for name, m in build(model, **options).named_modules() if name.endswith('ffn.drop') and hasattr(m, 'p')
        }

    assert rates(ffn_cfg=dict(type='swiglu', drop=0.5)) == {0.5} and rates(drop_rate=0.25) == {0.25} and not rates()


PLAIN_OPTIONS = [
    dict(arch=dict(num_layers=0)),
    dict(arch=dict(embed_dims=0)),
    dict(arch=dict(num_heads=0)),
    dict(arch=dict(num_heads=-2)),
    dict(arch=dict(num_heads=3)),
    dict(arch=dict(feedforward_channels=0)),
    dict(arch=dict(feedforward_channels=-3)),
    dict(img_size=0),
    dict(patch_size=0),
    dict(patch_size=-1),
    dict(patch_size=2.5),
    dict(in_channels=0),
    dict(out_indices=()),
    dict(out_indices=(0, 0)),
    dict(out_indices=(1, 0)),
    dict(out_indices=2),
    dict(out_indices=1.5),
    dict(out_indices=True),
    dict(out_indices={0: 'a'}),
    dict(frozen_stages=0.5),
    dict(frozen_stages='1'),
    dict(frozen_stages=3),
    dict(drop_rate=1.0),
    dict(drop_rate=NAN),
    dict(attn_drop_rate=1.5),
    dict(attn_drop_rate=-1),
    dict(drop_path_rate=NAN),
    dict(layer_scale_init_value=-1.0),
    dict(layer_scale_init_value=NAN),
    dict(interpolate_mode='nearest'),
    dict(norm_cfg=dict(typ='RMSNorm')),
    dict(norm_cfg=dict(type='BN')),
    dict(norm_cfg=dict(type=nn.BatchNorm1d)),
    dict(ffn_cfg=dict(biass=True)),
    dict(ffn_cfg=dict(hidden_dims=-3)),
    dict(ffn_cfg=dict(type='gelu', approximate='x')),
    dict(rope_cfg=dict(bas=3)),
    dict(rope_cfg=dict(base=NAN)),
    dict(rope_cfg=dict(base=math.inf)),
    dict(rope_cfg=dict(base='1e4')),
    dict(rope_cfg=dict(base=1e300, ntk_alpha=1e300)),
    dict(rope_cfg=dict(ratio=NAN)),
    dict(qkv_bias='False'),
    dict(final_norm='no'),
    dict(with_cp='yes'),
]


@pytest.mark.parametrize('model', [VisionLLaMA, iLLaMA, MAEVisionLLaMA])
@pytest.mark.parametrize('options', PLAIN_OPTIONS, ids=str)
def test_plain_models(model, options):
    with pytest.raises(OptionError) as error:
        build(model, **options)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'model, options',
    [
        (VisionLLaMA, dict(window_size=0)),
        (VisionLLaMA, dict(window_size=2.5)),
        (VisionLLaMA, dict(window_size=(2, 3))),
        (VisionLLaMA, dict(with_cls_token='no')),
        (VisionLLaMA, dict(window_block_indexes=(7,), with_cls_token=False, out_type='raw')),
        (iLLaMA, dict(soft_mask=NAN)),
        (iLLaMA, dict(soft_mask='x')),
        (iLLaMA, dict(rope_cfg=dict(kind='2d'))),
        (MAEVisionLLaMA, dict(mask_ratio=NAN)),
        (MAEVisionLLaMA, dict(mask_ratio='0.75')),
        (PyramidVisionLLaMA, dict(arch=dict(depths=(0, 2)))),
        (PyramidVisionLLaMA, dict(arch=dict(depths=2))),
        (PyramidVisionLLaMA, dict(arch=dict(window_sizes=(0, 7)))),
        (PyramidVisionLLaMA, dict(arch=dict(window_sizes=(2.5, 7)))),
        (PyramidVisionLLaMA, dict(arch=dict(sr_ratios=(2.0, 1)))),
        (PyramidVisionLLaMA, dict(arch=dict(patch_sizes=(0, 2)))),
        (PyramidVisionLLaMA, dict(arch=dict(embed_dims=(), depths=(), num_heads=()))),
        (PyramidVisionLLaMA, dict(out_indices=())),
        (PyramidVisionLLaMA, dict(norm_after_stage=['yes', 'no'])),
        (PyramidVisionLLaMA, dict(norm_after_stage=[1, 0])),
        (PyramidVisionLLaMA, dict(norm_after_stage={'a': 1, 'b': 2})),
        (PyramidVisionLLaMA, dict(rope_cfg=dict(anchor_grid=(0, 4)))),
        (PyramidVisionLLaMA, dict(drop_rate=2)),
        (DiTLLaMA, dict(num_classes=1.5)),
        (DiTLLaMA, dict(label_drop_prob=NAN)),
        (DiTLLaMA, dict(arch=dict(num_layers=0))),
        (DiTLLaMA, dict(patch_size=0)),
        (DiTLLaMA, dict(learn_sigma='no')),
    ],
    ids=str,
)
def test_options_of_one_model(model, options):
    with pytest.raises(OptionError) as error:
        build(model, **options)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('model', list(MODELS))
@pytest.mark.parametrize('arch', [None, 3, ['small']])
def test_an_arch_is_a_name_or_a_dict(model, arch):
    with pytest.raises(OptionError, match='must be a name or a dict'):
        model(**dict(MODELS[model], arch=arch))


@pytest.mark.parametrize('model', [VisionLLaMA, PyramidVisionLLaMA])
def test_an_image_has_pixels(model):
    with pytest.raises(OptionError, match=r'expected images of shape \(B, 3, H, W\), got \(1, 3, 0, 4\)'):
        build(model)(torch.zeros(1, 3, 0, 4))


@pytest.mark.parametrize('model', list(MODELS))
def test_an_image_has_the_dtype_of_the_weights(model):
    network, image = build(model).eval(), torch.zeros(1, 4 if model is DiTLLaMA else 3, 16, 16)
    rest = (torch.tensor([1.0]), torch.tensor([1])) if model is DiTLLaMA else ()
    for dtype in (torch.uint8, torch.int64, torch.bool, torch.complex64):
        with pytest.raises(OptionError, match=f'expected images in floating point, got {dtype}'):
            network(image.to(dtype), *rest)
    for dtype in (torch.float64, torch.bfloat16):
        with pytest.raises(OptionError, match=f'images in {dtype} and weights in torch.float32: cast'):
            network(image.to(dtype), *rest)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        network(image.bfloat16(), *rest)
    with torch.no_grad():
        network.double()(image.double(), *rest)


def test_generators_take_one_time_and_one_label_per_image():
    network = build(DiTLLaMA)
    images, labels = torch.zeros(2, 4, 8, 8), torch.tensor([1, 2])
    assert network(images, torch.tensor([1, 2]), labels).shape == (2, 8, 8, 8)
    for t, y in ((torch.tensor([1]), labels), (torch.tensor([1, 2, 3]), labels), (torch.tensor([1, 2]), labels[:1])):
        with pytest.raises(OptionError, match='one per image'):
            network(images, t, y)


@pytest.mark.parametrize('kind', ['LN', 'RMSNorm', nn.LayerNorm])
def test_norms_can_be_frozen(kind):
    assert all(p.requires_grad for p in build_norm(dict(type=kind), 4).parameters())
    assert not any(p.requires_grad for p in build_norm(dict(type=kind, requires_grad=False), 4).parameters())
    with pytest.raises(OptionError, match='requires_grad must be True or False'):
        build_norm(dict(type=kind, requires_grad='no'), 4)


def test_frozen_norms_reach_every_norm_of_a_model():
    model = build(VisionLLaMA, norm_cfg=dict(type='LN', requires_grad=False))
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 5 and not any(p.requires_grad for m in norms for p in m.parameters())
