"""Released weights of the MAE line: converted, built and run against the numeric fixtures."""

import pytest
import torch

from mmvisionllama.backbones import VisionLLaMA
from mmvisionllama.checkpoints import CheckpointError, convert_released, load_pretrained
from mmvisionllama.pretraining import MAEVisionLLaMA


def released_trunk(dims=64, layers=2, patches=4, hidden=256, cls_token=True, prefix='backbone.'):
    """A tiny backbone under the released keys; the position embedding is there and unused."""
    shapes = {
        'pos_embed': (1, patches + cls_token, dims),
        'patch_embed.projection.weight': (dims, 3, 16, 16),
        'patch_embed.projection.bias': (dims,),
        'ln1.weight': (dims,),
        'ln1.bias': (dims,),
    }
    if cls_token:
        shapes['cls_token'] = (1, 1, dims)
    for i in range(layers):
        for name, rows, columns in (
            ('attn.qkv', 3 * dims, dims),
            ('attn.proj', dims, dims),
            ('ffn.w12', 2 * hidden, dims),
            ('ffn.w3', dims, hidden),
        ):
            shapes[f'layers.{i}.{name}.weight'] = (rows, columns)
            shapes[f'layers.{i}.{name}.bias'] = (rows,)
        for norm in ('ln1', 'ln2'):
            shapes[f'layers.{i}.{norm}.weight'] = shapes[f'layers.{i}.{norm}.bias'] = (dims,)
    return {prefix + key: torch.randn(shape) for key, shape in shapes.items()}


def build(config):
    """Builds a config with mmpretrain's registry."""
    pytest.importorskip('mmpretrain')
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import MODELS

    init_default_scope('mmpretrain')
    return MODELS.build(config)


@torch.no_grad()
def test_pretraining_equals_the_released_codes(golden):
    fixture = golden('mae')
    converted = convert_released(
        fixture.weights,
        num_heads=fixture.model['backbone']['arch']['num_heads'],
        decoder_num_heads=fixture.model['neck']['decoder_num_heads'],
    )
    assert converted.family == 'mae'
    model = build(converted.model).eval()
    model.load_state_dict(converted.state_dict)
    image, out = fixture.inputs['image'], fixture.outputs

    latent, mask, ids_restore = model.backbone(image, noise=fixture.inputs['noise'])
    fixture.assert_close(latent, out['latent'])
    assert torch.equal(mask, out['mask']) and torch.equal(ids_restore, out['ids_restore'])
    pred = model.neck(latent, ids_restore)
    fixture.assert_close(pred, out['pred'])
    fixture.assert_close(model.head.construct_target(image), out['target'])
    fixture.assert_close(model.head.loss(pred, image, mask).view(1), out['loss'])
    model.head.norm_pix = False
    fixture.assert_close(model.head.loss(pred, image, mask).view(1), out['loss_no_norm_pix'])

    model.neck.init_weights()
    fixture.assert_close(model.neck.decoder_pos_embed, out['init.decoder_pos_embed'])
    table = model.backbone.rotary(model.backbone.rotary_positions(fixture.grid))
    fixture.assert_close(table.cos[:, 0], out['rope.table.real'])
    fixture.assert_close(table.sin[:, 0], out['rope.table.imag'])


@pytest.mark.parametrize('variant', ['avg', 'featmap', 'featmap_final_norm'])
@torch.no_grad()
def test_downstream_backbone_equals_the_released_codes(golden, variant):
    fixture = golden('mm_plain')
    settings = fixture.info['config']['variants'][variant]
    converted = convert_released(fixture.weights, num_heads=fixture.model['arch']['num_heads'], **settings)
    assert converted.family == 'mm_plain'
    config = dict(converted.model)
    assert config.pop('type') == 'VisionLLaMA'
    model = VisionLLaMA(**config).eval()
    model.load_state_dict(converted.state_dict)
    outs = model(fixture.inputs['image'])
    assert len(outs) == len(settings['out_indices'])
    for index, out in zip(settings['out_indices'], outs):
        fixture.assert_close(out, fixture.outputs[f'{variant}.layer{index}'])


def test_gate_comes_before_up_and_unused_positions_are_dropped():
    weights = released_trunk()
    converted = convert_released(weights)
    gate = converted.state_dict['backbone.layers.0.ffn.gate.weight']
    assert torch.equal(gate, weights['backbone.layers.0.ffn.w12.weight'][:256])
    assert 'backbone.pos_embed' not in converted.state_dict
    assert converted.model['backbone']['img_size'] == converted.model['backbone']['anchor'] == 32


def test_encoder_alone_with_and_without_prefix():
    bare = convert_released(released_trunk(prefix=''))
    assert bare.family == 'mae' and bare.model.pop('type') == 'MAEVisionLLaMA'
    MAEVisionLLaMA(**bare.model).load_state_dict(bare.state_dict)
    prefixed = convert_released(released_trunk())
    assert 'neck' not in prefixed.model
    build(prefixed.model).load_state_dict(prefixed.state_dict)


@pytest.mark.parametrize('probe', [False, True])
def test_classifiers(probe):
    weights = released_trunk(cls_token=False)
    weights['backbone.ln2.weight'] = weights.pop('backbone.ln1.weight')
    weights['backbone.ln2.bias'] = weights.pop('backbone.ln1.bias')
    weights |= {'head.fc.weight': torch.randn(5, 64), 'head.fc.bias': torch.randn(5)}
    if probe:
        weights |= {f'neck.bn.running_{name}': torch.rand(64) for name in ('mean', 'var')}
        weights['neck.bn.num_batches_tracked'] = torch.tensor(3)
    converted = convert_released(weights)
    assert converted.model['backbone']['out_type'] == 'avg_featmap' and not converted.model['backbone']['final_norm']
    model = build(converted.model).eval()
    model.load_state_dict(converted.state_dict)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 5)


def test_wrong_input_says_what_to_do():
    with pytest.raises(CheckpointError, match='backbone_only=True'):
        convert_released(released_trunk(cls_token=False) | {'decode_head.conv.weight': torch.randn(3)})
    only = convert_released(released_trunk(cls_token=False) | {'decode_head.x': torch.randn(3)}, backbone_only=True)
    assert only.model['type'] == 'VisionLLaMA' and not any(key.startswith('backbone.') for key in only.state_dict)
    with pytest.raises(CheckpointError, match='does not take auto_scale'):
        convert_released(released_trunk(), auto_scale=True)
    with pytest.raises(CheckpointError, match='give num_heads'):
        convert_released(released_trunk(dims=48))
    with pytest.raises(CheckpointError, match='give img_size'):
        convert_released(released_trunk(patches=8))
    weights = released_trunk()
    del weights['backbone.layers.1.ffn.w3.weight']
    converted = convert_released(weights)
    with pytest.raises(RuntimeError, match=r'layers\.1\.ffn\.down\.weight'):
        build(converted.model).load_state_dict(converted.state_dict)


def test_loading_it_unconverted_says_so(tmp_path):
    torch.save(dict(state_dict=released_trunk()), tmp_path / 'released.pth')
    model = VisionLLaMA(dict(embed_dims=64, num_layers=2, num_heads=1), with_cls_token=False, out_type='featmap')
    with pytest.raises(CheckpointError, match="family 'mae': convert it first"):
        load_pretrained(model, tmp_path / 'released.pth', 'backbone.')
