"""The converter of the released pyramid models, against outputs of the released code."""

import pytest
import torch
from mmengine.registry import MODELS

from mmvisionllama.checkpoints import CheckpointError, convert_released


def build(converted):
    """The backbone of a converted checkpoint and the logits of its head."""
    config = dict(converted.model)
    if config['type'] != 'ImageClassifier':
        backbone = MODELS.build(config)
        backbone.load_state_dict(converted.state_dict)
        return backbone.eval(), None
    backbone = MODELS.build(config['backbone']).eval()
    weights = {k[len('backbone.') :]: v for k, v in converted.state_dict.items() if k.startswith('backbone.')}
    backbone.load_state_dict(weights)
    fc = {k: v for k, v in converted.state_dict.items() if k.startswith('head.')}
    assert len(weights) + len(fc) == len(converted.state_dict)
    return backbone, lambda x: x @ fc['head.fc.weight'].T + fc['head.fc.bias']


@pytest.mark.parametrize(
    ('suffix', 'options'), [('', {}), ('.auto_scale', dict(auto_scale=True)), ('.ntk5', dict(use_ntk=5))]
)
def test_classifier(golden, suffix, options):
    fixture = golden('pyramid_cls')
    converted = convert_released(fixture.weights, num_heads=fixture.model['num_heads'], **options)
    assert converted.family == 'pyramid'
    backbone, head = build(converted)
    with torch.no_grad():
        (features,) = backbone(fixture.inputs['image'])
    fixture.assert_close(features, fixture.outputs['features' + suffix])
    fixture.assert_close(head(features), fixture.outputs['logits' + suffix])


@pytest.mark.parametrize('name', ['pyramid_seg', 'pyramid_det'])
@pytest.mark.parametrize('prefixed', [False, True])
def test_dense_backbones(golden, name, prefixed):
    fixture = golden(name)
    weights = fixture.weights
    if prefixed:  # a whole segmentor; only its backbone is ours
        weights = {f'backbone.{k}': v for k, v in weights.items()}
        weights['decode_head.conv_seg.weight'] = torch.zeros(3, 32, 1, 1)
    backbone, _ = build(convert_released(weights, num_heads=fixture.model['num_heads']))
    with torch.no_grad():
        outs = backbone(fixture.inputs['image'])
    assert len(outs) == len(fixture.model['out_indices'])
    for i, out in enumerate(outs):
        fixture.assert_close(out, fixture.outputs[f'feat{i}'])


@pytest.mark.parametrize(
    ('switch', 'value'), [('key_position', 'flat_index'), ('mask_padding', False), ('gap_norm', 'twice')]
)
def test_every_released_switch_matters(golden, switch, value):
    fixture = golden('pyramid_cls')
    converted = convert_released(fixture.weights, num_heads=fixture.model['num_heads'])
    assert converted.model['backbone'].pop(switch) == value
    backbone, _ = build(converted)
    with torch.no_grad():
        (features,) = backbone(fixture.inputs['image'])
    assert (features - fixture.outputs['features']).abs().max() > 0.1


def released_weights(scale=True):
    """A released state dict of a one-stage-deep toy, written by hand."""
    weights = {}
    channels = 3
    for s, (dims, sr) in enumerate(zip((32, 32, 64, 64), (8, 4, 2, 1))):
        patch = 2 if s else 4
        weights[f'patch_embeds.{s}.proj.weight'] = torch.randn(dims, channels, patch, patch)
        weights[f'patch_embeds.{s}.proj.bias'] = torch.randn(dims)
        weights[f'patch_embeds.{s}.norm.weight'] = weights[f'patch_embeds.{s}.norm.bias'] = torch.randn(dims)
        channels = dims
        for b in range(2):
            block = f'blocks.{s}.{b}.'
            for name in ('norm1', 'norm2'):
                weights[f'{block}{name}.weight'] = weights[f'{block}{name}.bias'] = torch.randn(dims)
            if scale:
                weights[block + 'gamma_1'] = weights[block + 'gamma_2'] = torch.randn(dims)
            for name, rows in (('attn.q', 1), ('attn.kv', 2)) if b else (('attn.qkv', 3),):
                weights[f'{block}{name}.weight'] = torch.randn(rows * dims, dims)
                weights[f'{block}{name}.bias'] = torch.randn(rows * dims)
            weights[block + 'attn.proj.weight'] = torch.randn(dims, dims)
            weights[block + 'attn.proj.bias'] = torch.randn(dims)
            if b and sr > 1:
                weights[block + 'attn.sr.weight'] = torch.randn(dims, dims, sr, sr)
                weights[block + 'attn.sr.bias'] = torch.randn(dims)
                weights[block + 'attn.norm.weight'] = weights[block + 'attn.norm.bias'] = torch.randn(dims)
            weights[block + 'mlp.c_fc1.weight'] = torch.randn(256, dims)
            weights[block + 'mlp.c_fc2.weight'] = torch.randn(256, dims)
            weights[block + 'mlp.c_proj.weight'] = torch.randn(dims, 256)
    weights['norm.weight'] = weights['norm.bias'] = torch.randn(64)
    weights['head.weight'], weights['head.bias'] = torch.randn(5, 64), torch.randn(5)
    return weights


@pytest.mark.parametrize('scale', [True, False])
def test_infers_the_architecture(scale):
    converted = convert_released(released_weights(scale))
    backbone = converted.model['backbone']
    assert backbone['arch'] == dict(
        embed_dims=[32, 32, 64, 64],
        depths=[2, 2, 2, 2],
        num_heads=[1, 1, 2, 2],
        patch_sizes=[4, 2, 2, 2],
        window_sizes=[7, 7, 7, 7],
        sr_ratios=[8, 4, 2, 1],
        feedforward_channels=[256] * 4,
    )
    assert backbone['layer_scale_init_value'] == (1e-4 if scale else 0.0)
    assert converted.model['head']['num_classes'] == 5
    build(converted)  # every key fits


def test_errors():
    weights = released_weights()
    with pytest.raises(CheckpointError, match='one value for each of the 4 stages'):
        convert_released(weights, num_heads=2)
    with pytest.raises(CheckpointError, match='does not take alpha'):
        convert_released(weights, alpha=2)
    del weights['blocks.1.0.mlp.c_fc1.weight']
    with pytest.raises(CheckpointError, match='complete'):
        convert_released(weights)
