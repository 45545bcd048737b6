"""Layers of dense necks and heads see each image of a padded batch as if it were alone."""

import pytest
import torch
from torch import nn

from mmvisionllama.layers import ValidGrid
from mmvisionllama.necks.hide_padding import PaddingHider

SIZES = ((70, 96), (96, 33))
PATCH = 16


def hider(batch=(96, 96), sizes=SIZES, patch=PATCH):
    hides = PaddingHider((patch, patch))
    hides.pixels.set(ValidGrid(torch.tensor(sizes), batch))
    return hides


@pytest.mark.parametrize(
    ('level', 'expected'),
    [((24, 24), [(20, 24), (24, 12)]), ((6, 6), [(5, 6), (6, 3)]), ((3, 3), [(3, 3), (3, 2)]), ((1, 1), [(1, 1)] * 2)],
)
def test_the_images_part_of_a_level_follows_from_its_size(level, expected):
    """Strides 4, 16, 32 and 96 or more; levels finer than a patch show whole patches."""
    found = hider().level(torch.zeros(2, 1, *level)).sizes
    assert [tuple(size) for size in found.tolist()] == expected


def test_odd_patches_and_batches():
    found = hider((70, 71), ((70, 29), (15, 71)), patch=14).level(torch.zeros(2, 1, 3, 3)).sizes  # stride 28
    assert found.tolist() == [[3, 2], [1, 3]]


def test_levels_that_drop_an_odd_row_drop_it_of_each_image():
    """MaxPool2d(2) makes 21 of 43 tokens: stride 2, not 4."""
    hides = hider((43, 32), ((43, 32), (40, 31), (1, 2)), patch=1)
    assert hides.level(torch.zeros(3, 1, 21, 16)).sizes.tolist() == [[21, 16], [20, 15], [1, 1]]
    assert hides.level(torch.zeros(3, 1, 10, 8)).sizes.tolist() == [[10, 8], [10, 7], [1, 1]]
    assert hides.level(torch.zeros(3, 1, 22, 16)).sizes.tolist() == [[22, 16], [20, 16], [1, 1]]


@pytest.mark.parametrize('level', [(1, 1), (3, 3), (11, 11), (14, 11), (15, 13), (43, 45), (129, 135), (50, 200)])
def test_an_image_that_fills_the_batch_fills_every_map(level):
    found = hider((43, 45), ((43, 45), (2, 9)), patch=1).level(torch.zeros(2, 1, *level))
    assert found.mask[0].all() and found.mask[1].any()


def test_convolutions_and_poolings_see_the_edge_of_a_map():
    neck = nn.ModuleDict(
        dict(
            conv=nn.Conv2d(4, 4, 3, padding=1),
            down=nn.MaxPool2d(2, 2, ceil_mode=True),
            mean=nn.AdaptiveAvgPool2d(1),
        )
    )
    model = nn.ModuleDict(dict(neck=neck))
    hides = hider()
    hides.install(model)
    x = torch.randn(2, 4, 6, 6)
    outs = {name: module(x) for name, module in neck.items()}
    hides.pixels.set(None)
    for n, (rows, cols) in enumerate(((5, 6), (6, 3))):
        for name, module in neck.items():
            alone = module(x[n : n + 1, :, :rows, :cols])[0]
            mine = outs[name][n, :, : alone.shape[1], : alone.shape[2]]
            torch.testing.assert_close(mine, alone, atol=1e-5, rtol=0)
    assert not outs['down'][1, :, :, 2:].any()


def test_layers_of_a_roi_head_are_left_alone():
    model = nn.ModuleDict(dict(roi_head=nn.Conv2d(4, 4, 3)))
    hider().install(model)
    assert not model.roi_head._forward_pre_hooks


def test_edges_go_on_outside_of_the_images():
    x = torch.randn(2, 4, 6, 6)
    (out,) = hider().continue_edges(None, (), (x,))
    torch.testing.assert_close(out[1, :, :, 3:], x[1, :, :, 2:3].expand(-1, -1, 3), atol=0, rtol=0)
    torch.testing.assert_close(out[0, :, :5], x[0, :, :5], atol=0, rtol=0)


def test_proposals_keep_what_a_head_returns_besides_scores_and_boxes():
    """FCOS as a region proposal network has centernesses, guided anchoring shapes and locations."""
    levels = [torch.randn(2, channels, 6, 6) for channels in (1, 4, 1, 2)]
    scores, boxes, *others = hider().no_objects(None, (), tuple([level] for level in levels))
    assert (scores[0][1, :, :, 3:] < -100).all() and (boxes[0][1, :, :, 3:] > 100).all()
    assert [other[0] is level for other, level in zip(others, levels[2:])] == [True, True]
