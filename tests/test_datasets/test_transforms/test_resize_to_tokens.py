"""Native aspect ratios within a budget of tokens."""

import numpy as np
import pytest

from mmvisionllama.datasets import ResizeToTokens
from mmvisionllama.datasets.transforms.resize_to_tokens import fitted_size, token_count


@pytest.mark.parametrize('size', [(480, 640), (427, 640), (3000, 40), (17, 900), (640, 639), (8, 8), (1, 1)])
def test_the_largest_of_the_same_aspect_ratio_that_fits(size):
    fitted = fitted_size(size, 16, 196, 49)
    assert 49 <= token_count(fitted, 16) <= 196 or size[0] / size[1] > 49
    height, width = (side / before for side, before in zip(fitted, size))
    assert abs(fitted[0] - size[0] * width) <= 1 + 0.5 * size[0] / size[1] or height == 1
    if token_count(size, 16) > 196:
        assert token_count([side * 1.1 for side in fitted], 16) > 196, 'a larger one would not fit'


def test_images_within_the_budget_stay_as_they_are():
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    results = ResizeToTokens(16, 196)(dict(img=image))
    assert results['img'] is image and results['img_shape'] == (50, 70)


def test_larger_and_smaller_ones_are_resized():
    pytest.importorskip('mmcv')
    for shape, expected in (((400, 200, 3), (2, 1)), ((10, 20, 3), (1, 2))):
        results = ResizeToTokens(16, 64, 32)(dict(img=np.zeros(shape, np.uint8)))
        height, width = results['img'].shape[:2]
        assert results['img_shape'] == (height, width)
        assert 32 <= token_count((height, width), 16) <= 64
        assert height * expected[1] == pytest.approx(width * expected[0], abs=2)


def test_an_empty_range_is_refused():
    with pytest.raises(ValueError, match='min_tokens'):
        ResizeToTokens(16, 10, 11)


def test_patches_that_are_no_squares():
    assert token_count((32, 40), (16, 8)) == 10


@pytest.mark.parametrize('size', [(8, 8), (10, 20)])
def test_small_images_grow_no_more_than_they_have_to(size):
    fitted = fitted_size(size, 16, 196, 49)
    assert token_count(fitted, 16) >= 49 > token_count([side * 0.8 for side in fitted], 16)


def test_interpolation():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    nearest, other = (
        ResizeToTokens(16, 4, interpolation=name)(dict(img=image))['img'] for name in ('nearest', 'bilinear')
    )
    colours = {tuple(pixel) for pixel in image.reshape(-1, 3)}
    assert {tuple(pixel) for pixel in nearest.reshape(-1, 3)} <= colours
    assert not {tuple(pixel) for pixel in other.reshape(-1, 3)} <= colours
