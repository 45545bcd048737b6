"""Earlier values and names of switches build the same models."""

import pytest
import torch

from mmvisionllama.backbones import PyramidVisionLLaMA, VisionLLaMA, iLLaMA
from mmvisionllama.generation import DiTLLaMA

TINY = dict(embed_dims=16, num_layers=2, num_heads=2)
PYRAMID = dict(embed_dims=(16, 16), depths=(2, 2), num_heads=(2, 2))
WINDOWED = dict(with_cls_token=False, out_type='featmap', window_block_indexes=(0,), window_size=3)

CASES = [
    (VisionLLaMA, TINY, dict(cls_position='released'), dict(cls_position='above_top_right')),
    (VisionLLaMA, TINY, dict(cls_position='released-y0'), dict(cls_position='top_right')),
    (VisionLLaMA, TINY, dict(rope_cfg=dict(scale='released')), dict(rope_cfg=dict(scale='height'))),
    (VisionLLaMA, TINY, dict(mask_window_padding='released', **WINDOWED), dict(mask_padding=False, **WINDOWED)),
    (VisionLLaMA, TINY, dict(mask_window_padding=False, **WINDOWED), dict(mask_padding=False, **WINDOWED)),
    (iLLaMA, TINY, dict(mask_mode='released', soft_mask=0.4), dict(mask_mode='multiplicative', soft_mask=0.4)),
    (iLLaMA, TINY, dict(rope_scale='released'), dict(rope_scale='none')),
    (PyramidVisionLLaMA, PYRAMID, dict(mask_padding='released'), dict(mask_padding=False)),
    (PyramidVisionLLaMA, PYRAMID, dict(key_position='released'), dict(key_position='flat_index')),
    (PyramidVisionLLaMA, PYRAMID, dict(norm_after_stage='released'), dict(norm_after_stage='in_trunk')),
    (
        PyramidVisionLLaMA,
        PYRAMID,
        dict(out_type='avg_featmap', gap_norm='released'),
        dict(out_type='avg_featmap', gap_norm='twice'),
    ),
    (
        PyramidVisionLLaMA,
        PYRAMID,
        dict(rope_cfg=dict(scale='released')),
        dict(rope_cfg=dict(scale='height', anchor_grid=(14, 14))),
    ),
    (
        PyramidVisionLLaMA,
        PYRAMID,
        dict(rope_cfg=dict(ntk_alpha=3.0, ntk_keys='released')),
        dict(rope_cfg=dict(ntk_alpha=3.0, ntk_keys='plain_base')),
    ),
]


def result(kind, arch, options, images):
    torch.manual_seed(1)
    model = kind(arch, **dict(dict(out_indices=1), **options)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    with torch.no_grad():
        return model(images)[0]


@pytest.mark.parametrize(('kind', 'arch', 'earlier', 'now'), CASES)
def test_backbones(kind, arch, earlier, now):
    images = torch.rand(1, 3, 90, 110)
    out = result(kind, arch, now, images)
    assert torch.equal(result(kind, arch, earlier, images), out)
    kept = {key: value for key, value in now.items() if key in ('out_type', 'soft_mask', *WINDOWED)}
    if 'mask_padding' not in now or kind is not PyramidVisionLLaMA:  # the second stage of 11 x 14 has whole windows
        assert not torch.equal(result(kind, arch, kept, images), out), 'the switch changes nothing here'


def test_guided_channels():
    network = DiTLLaMA(TINY, num_classes=3, anchor=4).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    args = torch.randn(1, 4, 4, 4), torch.tensor([5]), torch.tensor([1]), 3.0
    with torch.no_grad():
        guided = network.forward_with_cfg(*args, 'first_three')
        assert torch.equal(network.forward_with_cfg(*args, 'released'), guided)
        assert not torch.equal(network.forward_with_cfg(*args), guided)
