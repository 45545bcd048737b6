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
