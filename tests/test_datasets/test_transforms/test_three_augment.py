"""3-Augment against torchvision's operations, and in an mmpretrain pipeline."""

import numpy as np
import pytest

from mmvisionllama.datasets.transforms.three_augment import OPERATIONS, ThreeAugment, gaussian_blur, grayscale, solarize


@pytest.fixture
def image():
    """BGR."""
    return np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)


def rgb(img):
    from PIL import Image

    return Image.fromarray(img[..., ::-1])


def test_grayscale(image):
    """Pillow's luma of the RGB image, in three equal channels."""
    out = grayscale(image)
    assert (out == out[..., :1]).all()
    assert np.abs(out[..., 0].astype(int) - np.asarray(rgb(image).convert('L')).astype(int)).max() <= 1


def test_solarize(image):
    from PIL import ImageOps

    assert (solarize(image)[..., ::-1] == np.asarray(ImageOps.solarize(rgb(image), 128))).all()


def test_gaussian_blur(image):
    from PIL import ImageFilter

    assert (gaussian_blur(image, 1.3)[..., ::-1] == np.asarray(rgb(image).filter(ImageFilter.GaussianBlur(1.3)))).all()


def test_draws_each_operation_alike(image):
    """One of the three per image, a third of the time each."""
    np.random.seed(0)
    transform = ThreeAugment(radius=(1.0, 1.0))
    wanted = {'grayscale': grayscale(image), 'solarize': solarize(image), 'gaussian_blur': gaussian_blur(image, 1.0)}
    counts = dict.fromkeys(OPERATIONS, 0)
    for _ in range(600):
        out = transform(dict(img=image.copy()))['img']
        (found,) = (name for name, img in wanted.items() if np.array_equal(img, out))
        counts[found] += 1
    assert min(counts.values()) > 160


@pytest.mark.parametrize(
    'img', [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 1), np.uint8)]
)
def test_wrong_image(img):
    with pytest.raises(ValueError, match='uint8'):
        ThreeAugment()(dict(img=img))


def test_unknown_operation():
    with pytest.raises(ValueError, match='posterize.*grayscale'):
        ThreeAugment(['posterize'])


def test_in_mmpretrain_pipeline(image):
    """By its name, and usable by the transforms after it."""
    pytest.importorskip('mmpretrain.datasets')
    from mmcv.transforms import Compose
    from mmpretrain.registry import TRANSFORMS

    jitter = dict(type='ColorJitter', brightness=0.3, contrast=0.3, saturation=0.3)
    steps = [dict(type='ThreeAugment'), jitter, dict(type='PackInputs')]
    out = Compose([TRANSFORMS.build(step) for step in steps])(dict(img=image))
    assert tuple(out['inputs'].shape) == (3, 20, 31)


@pytest.mark.parametrize('operation', OPERATIONS)
def test_transforms_after_it_may_write_into_the_image(image, operation):
    """As mmpretrain's RandomErasing does."""
    pytest.importorskip('mmpretrain.datasets')
    from mmpretrain.registry import TRANSFORMS

    erased = TRANSFORMS.build(dict(type='RandomErasing', erase_prob=1.0, mode='const', fill_color=(1, 2, 3)))
    out = erased(ThreeAugment([operation])(dict(img=image)))['img']
    assert (out == (1, 2, 3)).all(axis=-1).any()


def test_threshold_and_radius():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    solarized = ThreeAugment(['solarize'], threshold=50)(dict(img=image))['img']
    assert np.array_equal(solarized, np.where(image < 50, image, 255 - image))
    blur = ThreeAugment(['gaussian_blur'])
    assert len({blur(dict(img=image))['img'].tobytes() for _ in range(5)}) == 5  # another radius each time
