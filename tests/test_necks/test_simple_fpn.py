"""The simple feature pyramid and its norm."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmvisionllama.errors import OptionError
from mmvisionllama.necks import LayerNorm2d, SimpleFPN


def slow_norm(x, norm):
    """LayerNorm over channels in float64, pixel by pixel."""
    x = x.double()
    out = torch.empty_like(x)
    for b in range(x.shape[0]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                pixel = x[b, :, i, j]
                unit = (pixel - pixel.mean()) / (pixel.var(correction=0) + norm.eps).sqrt()
                out[b, :, i, j] = unit * norm.weight.double() + norm.bias.double()
    return out


def test_norm_over_channels():
    norm = LayerNorm2d(6)
    assert norm.eps == 1e-6
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 3, 4)
    torch.testing.assert_close(norm(x).double(), slow_norm(x, norm), atol=1e-6, rtol=1e-5)
    assert norm(x.to(torch.bfloat16)).dtype == torch.float32
    assert norm.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize('grid', [(4, 6), (5, 7), (1, 1), (1, 3)])
def test_levels_cover_the_map(grid):
    neck = SimpleFPN(16, out_channels=8, num_outs=6)
    levels = neck((torch.randn(1, 3, 2, 2), torch.randn(2, 16, *grid)))  # only the last map is used
    assert len(levels) == 6
    for level, factor in zip(levels, (4, 2, 1, 0.5, 0.25, 0.125)):
        expected = tuple(-int(-side * factor // 1) for side in grid)  # rounded up
        assert level.shape == (2, 8, *expected)


def test_levels_one_by_one():
    """Against the description, a level at a time, with the module's own weights."""
    neck = SimpleFPN(8, out_channels=4).double()
    x = torch.randn(1, 8, 4, 4, dtype=torch.float64)
    levels = neck(x)

    def project(i, y):
        one, norm1, three, norm2 = neck.project[i]
        y = slow_norm(torch.einsum('bchw,oc->bohw', y, one.weight[:, :, 0, 0]), norm1)
        windows = nn.functional.unfold(y, 3, padding=1)
        y = (three.weight.flatten(1) @ windows).view(1, 4, *y.shape[2:])
        return slow_norm(y, norm2)

    def double_side(y, conv):
        b, _, height, width = y.shape
        out = torch.einsum('bchw,coij->bohiwj', y, conv.weight) + conv.bias[None, :, None, None, None, None]
        return out.reshape(b, -1, 2 * height, 2 * width)

    first, norm, _, second = neck.rescale[0]
    quarter = double_side(nn.functional.gelu(slow_norm(double_side(x, first), norm)), second)
    torch.testing.assert_close(levels[0], project(0, quarter))
    torch.testing.assert_close(levels[1], project(1, double_side(x, neck.rescale[1])))
    torch.testing.assert_close(levels[2], project(2, x))
    pooled = x.view(1, 8, 2, 2, 2, 2).amax(dim=(3, 5))
    torch.testing.assert_close(levels[3], project(3, pooled))
    torch.testing.assert_close(levels[4], levels[3][:, :, ::2, ::2])


def test_full_precision_under_autocast():
    neck = SimpleFPN(16, out_channels=8)
    with torch.autocast('cpu', torch.bfloat16):
        levels = neck(torch.randn(1, 16, 4, 4))
    assert {level.dtype for level in levels} == {torch.float32}


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_throughout(dtype):
    """A neck whose weights are halved hands maps of their dtype on."""
    neck, x = SimpleFPN(16, out_channels=8).to(dtype), torch.randn(1, 16, 4, 4).to(dtype)
    for level, expected in zip(neck(x), neck.float()(x.float())):
        assert level.dtype == dtype
        torch.testing.assert_close(level.float(), expected, atol=0.1, rtol=0.05)


def test_registered_under_names_of_our_own():
    assert MODELS.get('VisionLLaMASimpleFPN') is SimpleFPN and MODELS.get('VisionLLaMALN2d') is LayerNorm2d
    assert MODELS.get('SimpleFPN') is not SimpleFPN and MODELS.get('LN2d') is not LayerNorm2d


def test_norm_in_mmdet_heads():
    pytest.importorskip('mmdet')
    from mmdet.registry import MODELS as MMDET
    from mmdet.utils import register_all_modules

    register_all_modules()
    norm_cfg = dict(type='VisionLLaMALN2d', eps=1e-6)
    convs = dict(in_channels=8, conv_out_channels=8, num_classes=2, norm_cfg=norm_cfg)
    box = MMDET.build(dict(type='Shared4Conv1FCBBoxHead', fc_out_channels=8, roi_feat_size=3, **convs))
    mask = MMDET.build(dict(type='FCNMaskHead', num_convs=2, **convs))
    for head, count in ((box, 4), (mask, 2)):
        norms = [module for module in head.modules() if isinstance(module, LayerNorm2d)]
        assert len(norms) == count and {norm.eps for norm in norms} == {1e-6}
        head.init_weights()
    assert box(torch.randn(5, 8, 3, 3))[0].shape == (5, 3)
    assert mask(torch.randn(5, 8, 4, 4)).shape == (5, 2, 8, 8)


def test_unusable_settings():
    with pytest.raises(ValueError, match='at least 4'):
        SimpleFPN(16, num_outs=3)
    with pytest.raises(ValueError, match='multiple of 4'):
        SimpleFPN(18)


@torch.no_grad()
def test_levels_lie_in_memory_as_roi_align_reads_them():
    """mmcv's operator ignores strides: what it reads of a map in channels-last order is another map."""
    x = torch.randn(2, 16, 6, 5).contiguous(memory_format=torch.channels_last)
    levels = SimpleFPN(16, out_channels=8)(x)
    assert all(level.is_contiguous() for level in levels)
    ops = pytest.importorskip('mmcv.ops', exc_type=ImportError)
    rois = torch.tensor([[0, 4.0, 6.0, 60.0, 80.0], [1, 20.0, 30.0, 70.0, 75.0]])
    copies = torch.tensor(levels[0].tolist())
    out = ops.roi_align(levels[0], rois, (7, 7), 0.25, 0, 'avg', True)
    torch.testing.assert_close(out, ops.roi_align(copies, rois, (7, 7), 0.25, 0, 'avg', True), atol=1e-5, rtol=0)


@pytest.mark.parametrize('options', [dict(in_channels='a'), dict(num_outs='5'), dict(num_outs=3), dict(out_channels=0)])
def test_channels_and_levels_are_whole_numbers(options):
    with pytest.raises(OptionError, match=f'{next(iter(options))} must be'):
        SimpleFPN(**{**dict(in_channels=8), **options})
