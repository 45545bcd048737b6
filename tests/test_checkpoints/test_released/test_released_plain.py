"""Published plain classifiers through convert_released: equal logits, inferred architecture, clear errors."""

import pytest
import torch

from mmvisionllama.backbones import VisionLLaMA
from mmvisionllama.checkpoints import CheckpointError, convert_released

VARIANTS = [
    ('plain_cls', 'logits', 'features', dict()),
    ('plain_cls_as', 'logits.unscaled', 'features.unscaled', dict()),
    ('plain_cls_as', 'logits.auto_scale', 'features.auto_scale', dict(auto_scale=True)),
]


def released_keys(embed_dims=48, depth=2, hidden=64, classes=5, patch=4, cls_token=True, gamma=True):
    """Random weights under the released names."""
    block = {
        'norm1.weight': (embed_dims,),
        'norm1.bias': (embed_dims,),
        'norm2.weight': (embed_dims,),
        'norm2.bias': (embed_dims,),
        'attn.qkv.weight': (3 * embed_dims, embed_dims),
        'attn.qkv.bias': (3 * embed_dims,),
        'attn.proj.weight': (embed_dims, embed_dims),
        'attn.proj.bias': (embed_dims,),
        'mlp.c_fc1.weight': (hidden, embed_dims),
        'mlp.c_fc2.weight': (hidden, embed_dims),
        'mlp.c_proj.weight': (embed_dims, hidden),
    }
    if gamma:
        block.update({'gamma_1': (embed_dims,), 'gamma_2': (embed_dims,)})
    shapes = {
        'patch_embed.proj.weight': (embed_dims, 3, patch, patch),
        'patch_embed.proj.bias': (embed_dims,),
        'norm.weight': (embed_dims,),
        'norm.bias': (embed_dims,),
        'head.weight': (classes, embed_dims),
        'head.bias': (classes,),
    }
    if cls_token:
        shapes['cls_token'] = (1, 1, embed_dims)
    shapes.update({f'blocks.{i}.{name}': shape for i in range(depth) for name, shape in block.items()})
    return {name: torch.randn(shape) * 0.2 for name, shape in shapes.items()}


def build(converted):
    """The classifier of a converted checkpoint, weights loaded strictly."""
    registry = pytest.importorskip('mmpretrain.registry')
    model = registry.MODELS.build(converted.model)
    model.load_state_dict(converted.state_dict, strict=True)
    return model.eval()


def backbone_of(converted):
    """The backbone alone, which needs no other library."""
    cfg = dict(converted.model['backbone'])
    assert cfg.pop('type') == 'VisionLLaMA'
    backbone = VisionLLaMA(**cfg)
    weights = {k[len('backbone.') :]: v for k, v in converted.state_dict.items() if k.startswith('backbone.')}
    backbone.load_state_dict(weights, strict=True)
    return backbone.eval()


class TestNumericFixtures:
    @pytest.mark.parametrize(('name', 'logits', 'features', 'overrides'), VARIANTS)
    def test_logits(self, golden, name, logits, features, overrides):
        fixture = golden(name)
        model = build(convert_released(fixture.weights, num_heads=fixture.model['num_heads'], **overrides))
        with torch.no_grad():
            out = model(fixture.inputs['image'], mode='tensor')
            golden_features = model.extract_feat(fixture.inputs['image'])[0]
        fixture.assert_close(out, fixture.outputs[logits])
        fixture.assert_close(golden_features, fixture.outputs[features])

    @pytest.mark.parametrize(('name', 'logits', 'features', 'overrides'), VARIANTS)
    def test_float64(self, golden, name, logits, features, overrides):
        fixture = golden(name)
        backbone = backbone_of(
            convert_released(fixture.weights, num_heads=fixture.model['num_heads'], **overrides)
        ).double()
        with torch.no_grad():
            fixture.assert_close(backbone(fixture.inputs['image'].double())[0], fixture.outputs[features])

    def test_inside(self, golden):
        fixture = golden('plain_cls')
        backbone = backbone_of(convert_released(fixture.weights, num_heads=fixture.model['num_heads']))
        seen = []
        for layer in backbone.layers:
            layer.register_forward_hook(lambda module, args, out: seen.append(out))
        patches, grid = backbone.patch_embed(fixture.inputs['image'])
        fixture.assert_close(patches, fixture.outputs['mid.patch_embed'])
        table = backbone.rotary(backbone.rotary_positions(grid))
        fixture.assert_close(table.cos[:, 0], fixture.outputs['rope.table.real'], 1e-6)
        fixture.assert_close(table.sin[:, 0], fixture.outputs['rope.table.imag'], 1e-6)
        backbone(fixture.inputs['image'])
        for i, out in enumerate(seen):
            fixture.assert_close(out, fixture.outputs[f'mid.block{i}'])

    @pytest.mark.parametrize('cls_position', ['origin', 'top_right', 'released-y0'])
    def test_the_class_tokens_place_matters(self, golden, cls_position):
        fixture = golden('plain_cls')
        backbone = backbone_of(
            convert_released(fixture.weights, num_heads=fixture.model['num_heads'], cls_position=cls_position)
        )
        change = (backbone(fixture.inputs['image'])[0] - fixture.outputs['features']).abs().max().item()
        expected = fixture.info['discrimination']['values']['cls_00' if cls_position == 'origin' else 'cls_y0']
        assert change == pytest.approx(expected['change']['out.features'], rel=0.1)

    def test_scaling_is_the_identity_at_224(self, golden):
        fixture = golden('plain_cls_as')
        image = torch.randn(1, 3, 224, 224)
        outs = [
            backbone_of(convert_released(fixture.weights, num_heads=fixture.model['num_heads'], auto_scale=scale))(
                image
            )[0]
            for scale in (False, True)
        ]
        assert torch.equal(*outs)


class TestInference:
    def test_architecture_from_shapes(self):
        state = released_keys(embed_dims=128, depth=3, hidden=512, classes=7, patch=16)
        converted = convert_released(state)
        arch = converted.model['backbone']['arch']
        assert arch == dict(embed_dims=128, num_layers=3, num_heads=2, feedforward_channels=512)
        assert converted.family == 'plain' and converted.model['head']['num_classes'] == 7
        backbone = backbone_of(converted)
        assert backbone.cls_position == 'above_top_right' and backbone.rotary.scale == 'none'
        assert len(converted.state_dict) == len(state)
        assert build(converted)(torch.randn(1, 3, 64, 64), mode='tensor').shape == (1, 7)

    def test_nothing_is_lost_or_changed(self):
        state = released_keys()
        converted = convert_released(state, num_heads=2)
        assert sorted(v.sum().item() for v in state.values()) == sorted(
            v.sum().item() for v in converted.state_dict.values()
        )
        assert torch.equal(converted.state_dict['backbone.layers.1.ffn.up.weight'], state['blocks.1.mlp.c_fc2.weight'])
        assert torch.equal(converted.state_dict['backbone.layers.0.ls2.weight'], state['blocks.0.gamma_2'])

    def test_pooled_variant_takes_the_mean_before_the_norm(self):
        state = released_keys(cls_token=False, gamma=False)
        converted = convert_released(state, num_heads=2)
        backbone = backbone_of(converted)
        image = torch.randn(1, 3, 16, 24)
        assert isinstance(backbone.layers[0].ls1, torch.nn.Identity)
        backbone.out_type = 'raw'
        tokens = backbone(image)[0]
        backbone.out_type = 'avg_featmap'
        pooled = torch.nn.functional.layer_norm(
            tokens.mean(dim=1), (48,), state['norm.weight'], state['norm.bias'], eps=1e-6
        )
        torch.testing.assert_close(backbone(image)[0], pooled)

    def test_without_a_head(self):
        state = {k: v for k, v in released_keys().items() if not k.startswith('head.')}
        assert 'head' not in convert_released(state, num_heads=2).model

    def test_img_size_is_kept_and_changes_no_weight(self):
        state = released_keys()
        small, large = (convert_released(state, num_heads=2, img_size=size) for size in (64, 512))
        assert large.model['backbone']['img_size'] == 512
        assert all(torch.equal(v, large.state_dict[k]) for k, v in small.state_dict.items())


class TestErrors:
    def test_unknown_keys(self):
        with pytest.raises(CheckpointError, match='no released family has these keys .*conv.weight.*plain'):
            convert_released({'conv.weight': torch.zeros(1)})

    def test_number_of_heads_cannot_be_told(self):
        with pytest.raises(CheckpointError, match='embed_dims 48 .*give num_heads'):
            convert_released(released_keys())
        with pytest.raises(CheckpointError, match='num_heads 5 does not divide .*give num_heads'):
            convert_released(released_keys(), num_heads=5)

    def test_unknown_override(self):
        with pytest.raises(CheckpointError, match="'plain' does not take depth: known are num_heads, img_size"):
            convert_released(released_keys(), num_heads=2, depth=3)

    def test_missing_block(self):
        state = {k: v for k, v in released_keys(depth=3).items() if not k.startswith('blocks.1.')}
        with pytest.raises(CheckpointError, match='blocks are missing'):
            convert_released(state, num_heads=2)
