"""Released weights of the windowed backbone (ViTDet): converted, built and run against the numeric fixture."""

import pytest
import torch

from mmvisionllama.backbones import VisionLLaMA
from mmvisionllama.checkpoints import CheckpointError, convert_released
from mmvisionllama.layers import RotaryTable, WindowContext

MODEL = dict(num_heads=2, window_size=7, window_block_indexes=(0, 2))


def build(fixture, **changes):
    converted = convert_released(fixture.weights, **MODEL)
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
    assert model.mask_window_padding == 'released'
    tokens = {}
    for i, layer in enumerate(model.layers):
        layer.register_forward_hook(lambda module, args, out, i=i: tokens.update({i: out}))
    fixture.assert_close(model(fixture.inputs['image'])[0], fixture.outputs['featmap'])
    for i in range(3):
        fixture.assert_close(tokens[i], fixture.outputs[f'mid.layer{i}'])

    contexts = model.rotary_contexts((10, 10))
    assert isinstance(contexts[True], WindowContext) and isinstance(contexts[False], RotaryTable)
    for table, name in ((contexts[True].rope, 'layer0.window'), (contexts[False], 'layer1.global')):
        fixture.assert_close(table.cos[:, 0], fixture.outputs[f'rope.{name}.real'])
        fixture.assert_close(table.sin[:, 0], fixture.outputs[f'rope.{name}.imag'])


@torch.no_grad()
def test_padding_is_what_differs_by_default(golden):
    fixture = golden('vitdet')
    out = build(fixture, mask_window_padding=True)(fixture.inputs['image'])[0]
    change = (out - fixture.outputs['featmap']).abs().max().item()
    assert change == pytest.approx(fixture.info['discrimination']['values']['mask_pad']['change']['out.featmap'], 0.1)


def test_the_windows_are_the_callers_to_know(golden):
    fixture = golden('vitdet')
    plain = convert_released(fixture.weights, num_heads=2)
    assert 'window_block_indexes' not in plain.model and plain.model['anchor'] == 160
    detector = {f'backbone.{key}': value for key, value in fixture.weights.items()}
    detector['rpn_head.rpn_cls.weight'] = torch.zeros(1)
    with pytest.raises(CheckpointError, match='backbone_only=True'):
        convert_released(detector, **MODEL)
    backbone = convert_released(detector, backbone_only=True, **MODEL)
    build(fixture).load_state_dict(backbone.state_dict)
