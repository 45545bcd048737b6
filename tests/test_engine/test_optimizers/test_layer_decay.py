"""Layer-wise learning-rate decay in models of mmpretrain, mmsegmentation and mmdetection, by hand."""

import logging

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

import mmvisionllama  # noqa: F401
from mmvisionllama.errors import OptionError

LR, DECAY, RATE = 0.1, 0.05, 0.5
PLAIN = dict(type='VisionLLaMA', arch=dict(embed_dims=16, num_layers=3, num_heads=2))
PYRAMID = dict(
    type='PyramidVisionLLaMA',
    arch=dict(embed_dims=(8, 8, 16, 16), depths=(1, 2, 1, 1), num_heads=(2, 2, 2, 2)),
    out_indices=(0, 1, 2, 3),
)


def build(model, **paramwise_cfg):
    cfg = dict(
        optimizer=dict(type='AdamW', lr=LR, weight_decay=DECAY),
        constructor='LayerDecayOptimWrapperConstructor',
        paramwise_cfg=dict(layer_decay_rate=RATE, **paramwise_cfg),
    )
    return build_optim_wrapper(model, cfg)


def settings(model, wrapper):
    """Parameter name to (lr, weight decay)."""
    found = {}
    names = {id(param): name for name, param in model.named_parameters()}
    for group in wrapper.optimizer.param_groups:
        for param in group['params']:
            assert names[id(param)] not in found
            found[names[id(param)]] = (group['lr'], group['weight_decay'])
    return found


def check(found, expected):
    for name, (power, decays) in expected.items():
        assert found[name] == (pytest.approx(LR * RATE**power), DECAY * decays), name


def test_mmpretrain_plain():
    """Embedding, three blocks, head: five depths, the head's factor is 1."""
    pytest.importorskip('mmpretrain')
    init_default_scope('mmpretrain')
    backbone = dict(PLAIN, abs_pos_embed=True, img_size=32, patch_size=16)
    model = MODELS.build(
        dict(type='ImageClassifier', backbone=backbone, head=dict(type='LinearClsHead', num_classes=5, in_channels=16))
    )
    found = settings(model, build(model))
    assert found.keys() == dict(model.named_parameters()).keys()
    check(
        found,
        {
            'backbone.cls_token': (4, 0),
            'backbone.pos_embed': (4, 0),
            'backbone.patch_embed.projection.weight': (4, 1),
            'backbone.patch_embed.projection.bias': (4, 0),
            'backbone.layers.0.attn.qkv.weight': (3, 1),
            'backbone.layers.1.ln1.weight': (2, 0),
            'backbone.layers.1.ls1.weight': (2, 0),
            'backbone.layers.2.attn.qkv.bias': (1, 0),
            'backbone.layers.2.attn.proj.weight': (1, 1),
            'backbone.ln1.weight': (0, 0),
            'head.fc.weight': (0, 1),
            'head.fc.bias': (0, 0),
        },
    )


def test_mmpretrain_own_backbone():
    """Another library's backbone answers as well; its depths are its own."""
    pytest.importorskip('mmpretrain')
    init_default_scope('mmpretrain')
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
    backbone = dict(type='VisionTransformer', arch=arch, img_size=32)
    model = MODELS.build(
        dict(type='ImageClassifier', backbone=backbone, head=dict(type='LinearClsHead', num_classes=5, in_channels=16))
    )
    check(
        settings(model, build(model)),
        {
            'backbone.pos_embed': (3, 0),
            'backbone.layers.0.attn.qkv.weight': (2, 1),
            'backbone.layers.1.ln1.weight': (1, 0),
            'head.fc.weight': (0, 1),
        },
    )


def test_mmseg_pyramid():
    """Blocks are counted over all stages, 1 + 2 + 1 + 1; a patch embedding goes with the block after it."""
    pytest.importorskip('mmseg')
    init_default_scope('mmseg')
    head = dict(
        type='UPerHead',
        in_channels=[8, 8, 16, 16],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2),
        channels=8,
        num_classes=3,
    )
    model = MODELS.build(dict(type='EncoderDecoder', backbone=PYRAMID, decode_head=head))
    found = settings(model, build(model))
    assert found.keys() == dict(model.named_parameters()).keys()
    check(
        found,
        {
            'backbone.patch_embeds.0.projection.weight': (6, 1),
            'backbone.patch_embeds.0.norm.weight': (6, 0),
            'backbone.stages.0.0.attn.qkv.weight': (5, 1),
            'backbone.patch_embeds.1.projection.weight': (4, 1),
            'backbone.stages.1.0.ls1.weight': (4, 0),
            'backbone.stages.1.1.attn.sr.weight': (3, 1),
            'backbone.stages.2.0.attn.qkv.weight': (2, 1),
            'backbone.patch_embeds.3.projection.bias': (1, 0),
            'backbone.stages.3.0.ffn.down.weight': (1, 1),
            'backbone.norms.0.weight': (0, 0),
            'decode_head.conv_seg.weight': (0, 1),
            'decode_head.conv_seg.bias': (0, 0),
        },
    )


def test_mmdet_plain():
    """A single-stage detector with a neck: everything after the backbone has the full rate."""
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv.ops')
    init_default_scope('mmdet')
    backbone = dict(PLAIN, out_type='featmap', with_cls_token=False, out_indices=(0, 2), frozen_stages=1)
    model = MODELS.build(
        dict(
            type='FCOS',
            backbone=backbone,
            neck=dict(type='FPN', in_channels=[16, 16], out_channels=8, num_outs=2),
            bbox_head=dict(
                type='FCOSHead', num_classes=3, in_channels=8, stacked_convs=1, feat_channels=8, strides=[16, 16],
                regress_ranges=((-1, 64), (64, 1e8)), norm_cfg=None,
            ),
        )
    )  # fmt: skip
    found = settings(model, build(model))
    assert not [name for name in found if name.startswith(('backbone.patch_embed', 'backbone.layers.0'))], 'frozen'
    check(
        found,
        {
            'backbone.layers.1.attn.qkv.weight': (2, 1),
            'backbone.layers.2.ln2.bias': (1, 0),
            'neck.lateral_convs.0.conv.weight': (0, 1),
            'bbox_head.conv_cls.bias': (0, 0),
        },
    )


class Wrapped(nn.Module):
    """A backbone under an unusual prefix."""

    def __init__(self, backbone):
        super().__init__()
        self.student = nn.ModuleDict(dict(encoder=backbone))
        self.out = nn.Linear(16, 2)


def test_any_prefix_and_custom_keys():
    """The longest matching key multiplies the rate, and replaces the rule of weight decay."""
    model = Wrapped(MODELS.build(PLAIN))
    custom = {'out': dict(lr_mult=10.0), 'layers': dict(decay_mult=0.5), 'layers.2.': dict(decay_mult=2.0)}
    found = settings(model, build(model, custom_keys=custom))
    assert found['student.encoder.cls_token'] == (pytest.approx(LR * RATE**4), 0)
    assert found['student.encoder.layers.0.ln1.weight'] == (pytest.approx(LR * RATE**3), DECAY / 2)
    assert found['student.encoder.layers.2.attn.qkv.weight'] == (pytest.approx(LR * RATE), 2 * DECAY)
    assert found['out.weight'] == (pytest.approx(10 * LR), DECAY)


def test_registers_and_learned_directions():
    """Tokens and position parameters like the class token: no weight decay."""
    model = Wrapped(MODELS.build(dict(PLAIN, num_registers=2, rope_cfg=dict(directions='mixed'))))
    found = settings(model, build(model))
    check(
        found,
        {
            'student.encoder.registers': (4, 0),
            'student.encoder.layers.0.attn.rotary.vectors': (3, 0),
            'student.encoder.layers.0.attn.qkv.weight': (3, 1),
        },
    )


def test_schedule_keeps_the_ratios():
    """mmengine's schedulers scale every group by the same factor."""
    from mmengine.optim import LinearLR

    model = Wrapped(MODELS.build(PLAIN))
    wrapper = build(model)
    LinearLR(wrapper, start_factor=0.25, end=4)
    found = settings(model, wrapper)
    assert found['out.weight'][0] == pytest.approx(LR / 4)
    assert found['student.encoder.cls_token'][0] == pytest.approx(LR / 4 * RATE**4)


def test_logs_a_short_table():
    """Two lines at most for each depth, and the totals are the model's."""
    records = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append(record.getMessage())

    logger = MMLogger.get_current_instance()
    handler = Keep(level=logging.INFO)
    logger.addHandler(handler)
    model = Wrapped(MODELS.build(PLAIN))
    build(model)
    logger.removeHandler(handler)
    title, header, *rows = next(text for text in records if 'layer-wise decay' in text).splitlines()
    assert title == 'layer-wise decay 0.5 in student.encoder (VisionLLaMA):'
    assert header.split() == ['depth', 'lr', 'weight', 'decay', 'tensors', 'parameters']
    assert [row.split()[0] for row in rows] == [str(depth) for depth in range(5) for _ in range(2)]
    assert sum(int(row.split()[-1].replace(',', '')) for row in rows) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize('wrapped', ['', 'LeNet5', 'ResNet'])
def test_backbone_that_cannot_say_depths(wrapped):
    """One error that names the class, also where mmpretrain's classifier has the method and passes it on."""
    model = nn.Conv2d(3, 4, 1)
    if wrapped:
        pytest.importorskip('mmpretrain')
        init_default_scope('mmpretrain')
        backbone = dict(type='ResNet', depth=18) if wrapped == 'ResNet' else dict(type=wrapped)
        model = MODELS.build(dict(type='ImageClassifier', backbone=backbone))
    with pytest.raises(OptionError, match=f'get_layer_depth.*{wrapped or "Conv2d"} does not'):
        build(model)


@pytest.mark.parametrize('library', ['mmseg', 'mmdet'])
def test_stock_backbone_that_cannot_say_depths(library):
    """A ResNet in another library's model: the message names it and what to do."""
    pytest.importorskip(f'{library}.models', exc_type=ImportError)
    init_default_scope(library)
    resnet = dict(type='ResNet', depth=18, out_indices=(3,), norm_cfg=dict(type='BN'))
    if library == 'mmseg':
        head = dict(type='FCNHead', in_channels=512, in_index=0, channels=8, num_classes=3)
        cfg = dict(type='EncoderDecoder', backbone=resnet, decode_head=head)
    else:
        cfg = dict(type='YOLOF', backbone=resnet, bbox_head=dict(type='YOLOFHead', num_classes=3, in_channels=8))
        neck = dict(type='DilatedEncoder', in_channels=512, out_channels=8, block_mid_channels=8, num_residual_blocks=1)
        cfg['neck'] = dict(neck, block_dilations=[2])
    with pytest.raises(OptionError, match='ResNet does not: take a backbone of mmvisionllama, one of mmpretrain'):
        build(MODELS.build(cfg))


def test_wrong_depth_is_named():
    class Wrong(nn.Linear):
        def get_layer_depth(self, param_name, prefix=''):
            return 5, 3

    with pytest.raises(OptionError, match='depth 5 of 3 for 0.weight'):
        build(nn.Sequential(Wrong(2, 2)))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(), 'needs paramwise_cfg'),
        (dict(layer_decay_rate=1.5), r'in \(0, 1\]'),
        (dict(layer_decay_rate=0.5, norm_decay_mult=0.0), 'norm_decay_mult'),
    ],
)
def test_wrong_options(options, message):
    cfg = dict(
        optimizer=dict(type='AdamW', lr=LR), constructor='LayerDecayOptimWrapperConstructor', paramwise_cfg=options
    )
    with pytest.raises(OptionError, match=message):
        build_optim_wrapper(nn.Linear(2, 2), cfg)


def test_needs_a_learning_rate():
    cfg = dict(
        optimizer=dict(type='AdamW', weight_decay=DECAY),
        constructor='LayerDecayOptimWrapperConstructor',
        paramwise_cfg=dict(layer_decay_rate=0.5),
    )
    with pytest.raises(OptionError, match='lr='):
        build_optim_wrapper(torch.nn.Linear(2, 2), cfg)
