"""Released weights of the windowed backbone (ViTDet): converted, built and run against the numeric fixture."""

import pytest
import torch

from mmvisionllama.backbones import VisionLLaMA
from mmvisionllama.checkpoints import CheckpointError, convert_released


def windows(fixture):
    """What the keys of the checkpoint do not tell."""
    model = fixture.model
    return dict(
        num_heads=model['arch']['num_heads'],
        window_size=model['window_size'],
        window_block_indexes=model['window_block_indexes'],
    )


def build(fixture, **changes):
    converted = convert_released(fixture.weights, **windows(fixture))
    assert converted.family == 'mm_plain'
    config = {**converted.model, **changes}
    assert config.pop('type') == 'VisionLLaMA' and config['out_type'] == 'featmap' and not config['final_norm']
    model = VisionLLaMA(**config).eval()
    model.load_state_dict(converted.state_dict)
    return model


@torch.no_grad()
def test_equals_the_released_codes(golden):
    fixture = golden('vitdet')
    model = build(fixture)
    assert model.mask_padding is False
    tokens = {}
    for i, layer in enumerate(model.layers):
        layer.register_forward_hook(lambda module, args, out, i=i: tokens.update({i: out}))
    fixture.assert_close(model(fixture.inputs['image'])[0], fixture.outputs['featmap'])
    for i in range(len(model.layers) - 1):
        fixture.assert_close(tokens[i], fixture.outputs[f'mid.layer{i}'])

    contexts = model.rotary_contexts(fixture.grid)
    for windowed, kind in ((True, 'window'), (False, 'global')):
        table = contexts[windowed].rope
        name = next(
            f'layer{i}.{kind}' for i in range(len(model.layers)) if (i in model.window_block_indexes) == windowed
        )
        fixture.assert_close(table.cos[:, 0], fixture.outputs[f'rope.{name}.real'])
        fixture.assert_close(table.sin[:, 0], fixture.outputs[f'rope.{name}.imag'])


@torch.no_grad()
def test_padding_is_what_differs_by_default(golden):
    fixture = golden('vitdet')
    out = build(fixture, mask_padding=True)(fixture.inputs['image'])[0]
    change = (out - fixture.outputs['featmap']).abs().max().item()
    assert change == pytest.approx(fixture.info['discrimination']['values']['mask_pad']['change']['out.featmap'], 0.1)


def test_the_windows_are_the_callers_to_know(golden):
    fixture = golden('vitdet')
    plain = convert_released(fixture.weights, num_heads=fixture.model['arch']['num_heads'])
    assert 'window_block_indexes' not in plain.model and plain.model['anchor'] == fixture.model['img_size']
    detector = {f'backbone.{key}': value for key, value in fixture.weights.items()}
    detector['rpn_head.rpn_cls.weight'] = torch.zeros(1)
    with pytest.raises(CheckpointError, match='backbone_only=True'):
        convert_released(detector, **windows(fixture))
    backbone = convert_released(detector, backbone_only=True, **windows(fixture))
    build(fixture).load_state_dict(backbone.state_dict)
