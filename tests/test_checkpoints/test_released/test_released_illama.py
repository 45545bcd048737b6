"""Released iLLaMA weights: converted, built and run against the numeric fixtures."""

import pytest
import torch

from mmvisionllama.backbones import iLLaMA
from mmvisionllama.checkpoints import CheckpointError, convert_released


def released_weights(dims=64, layers=2, patches=4, classes=5):
    """A tiny state dict under the released keys."""
    shapes = {
        'cls_token': (1, 1, dims),
        'pos_embed': (1, patches + 1, dims),
        'patch_embed.proj.weight': (dims, 3, 16, 16),
        'patch_embed.proj.bias': (dims,),
        'norm.weight': (dims,),
        'head.weight': (classes, dims),
        'head.bias': (classes,),
    }
    for i in range(layers):
        block = {
            'norm1.weight': (dims,),
            'attn.qkv.weight': (3 * dims, dims),
            'attn.qkv.bias': (3 * dims,),
            'attn.proj.weight': (dims, dims),
            'attn.proj.bias': (dims,),
            'norm2.weight': (dims,),
            'mlp.fc1.weight': (256, dims),
            'mlp.fc2.weight': (dims, 256),
            'mlp.fc3.weight': (256, dims),
        }
        shapes.update({f'blocks.{i}.{key}': shape for key, shape in block.items()})
    return {key: torch.randn(shape) for key, shape in shapes.items()}


def build(converted):
    """Backbone and head of a converted checkpoint; loading is strict."""
    config = dict(converted.model['backbone'])
    assert config.pop('type') == 'iLLaMA'
    backbone = iLLaMA(**config).eval()
    backbone.load_state_dict({k[9:]: v for k, v in converted.state_dict.items() if k.startswith('backbone.')})
    head = torch.nn.Linear(backbone.embed_dims, converted.model['head']['num_classes'])
    head.load_state_dict({k[8:]: v for k, v in converted.state_dict.items() if k.startswith('head.fc.')})
    return backbone, head


@pytest.mark.parametrize('alpha', [0, 0.37, 1])
@torch.no_grad()
def test_logits_equal_the_released_codes(golden, alpha):
    fixture = golden('illama')
    converted = convert_released(fixture.weights, num_heads=fixture.model['num_heads'])
    assert converted.family == 'illama'
    backbone, head = build(converted)
    assert sum(v.numel() for v in converted.state_dict.values()) == fixture.info['num_params']
    backbone.set_soft_mask(alpha)
    logits = head(backbone(fixture.inputs['image'])[0])
    golden_logits = fixture.outputs[f'logits.alpha{alpha}']
    fixture.assert_close(logits, golden_logits)


@torch.no_grad()
def test_a_converted_model_starts_causal_and_never_rescales(golden):
    fixture = golden('illama')
    backbone, head = build(convert_released(fixture.weights, num_heads=fixture.model['num_heads']))
    fixture.assert_close(head(backbone(fixture.inputs['image'])[0]), fixture.outputs['logits.alpha0'])
    table = backbone.rotary(backbone.rotary_positions(fixture.grid))
    fixture.assert_close(table.cos[:, 0], fixture.outputs['rope.table.real'])
    fixture.assert_close(table.sin[:, 0], fixture.outputs['rope.table.imag'])


def test_the_whole_classifier_builds_and_loads_strictly():
    pytest.importorskip('mmpretrain')
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import MODELS

    init_default_scope('mmpretrain')
    converted = convert_released(released_weights())
    assert converted.model['backbone']['img_size'] == 32
    model = MODELS.build(converted.model)
    missing = model.load_state_dict(converted.state_dict, strict=True)
    assert not missing.missing_keys and not missing.unexpected_keys
    assert model(torch.rand(1, 3, 32, 32)).shape[0] == 1


def test_mask_mode_can_be_chosen():
    assert convert_released(released_weights(), mask_mode='additive').model['backbone']['mask_mode'] == 'additive'


def test_damaged_checkpoints_say_what_is_wrong():
    weights = released_weights(layers=3)
    for key in [key for key in weights if key.startswith('blocks.1.')]:
        del weights[key]
    with pytest.raises(CheckpointError, match='blocks are missing'):
        convert_released(weights)
    weights = released_weights()
    del weights['pos_embed']
    with pytest.raises(CheckpointError, match='pos_embed'):
        convert_released(weights)
    with pytest.raises(CheckpointError, match='give img_size'):
        convert_released(released_weights(patches=8))
    assert convert_released(released_weights(patches=8), img_size=(32, 64)).family == 'illama'
    with pytest.raises(CheckpointError, match='give num_heads'):
        convert_released(released_weights(dims=48))
