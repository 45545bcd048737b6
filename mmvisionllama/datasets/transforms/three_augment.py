"""Image transforms that mmpretrain lacks."""

from typing import Sequence, Tuple

import numpy as np
from mmengine.registry import TRANSFORMS

#: choices of :class:`ThreeAugment`
OPERATIONS = ('grayscale', 'solarize', 'gaussian_blur')


def grayscale(img: np.ndarray) -> np.ndarray:
    """Luma (ITU-R 601) in all three channels; ``(H, W, 3)`` uint8 BGR to the same."""
    import cv2

    return np.repeat(cv2.cvtColor(img, cv2.COLOR_BGR2GRAY)[..., None], 3, axis=-1)


def solarize(img: np.ndarray, threshold: int = 128) -> np.ndarray:
    """Inverts the values from ``threshold`` on."""
    return np.where(img < threshold, img, 255 - img).astype(img.dtype)


def gaussian_blur(img: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur with standard deviation ``radius`` in pixels, as Pillow's ``GaussianBlur(radius)``."""
    from PIL import Image, ImageFilter

    # a copy: Pillow's own array is read-only, and RandomErasing writes into the image
    return np.array(Image.fromarray(img).filter(ImageFilter.GaussianBlur(radius)))


@TRANSFORMS.register_module()
class ThreeAugment:
    """3-Augment of DeiT III, which the supervised recipe of the plain models uses (Table 13).

    One of three operations, drawn with equal chance, for each image: greyscale, solarisation, Gaussian blur. Random
    crop and flip come before it in the pipeline and colour jitter after it; those are mmpretrain's.

    Required Keys: ``img``, ``(H, W, 3)`` uint8 BGR. Modified Keys: ``img``.

    Args:
        operations: What is drawn from, see :data:`OPERATIONS`.
        threshold: Solarisation inverts values from here on, 0 ... 255.
        radius: Range of the blur's standard deviation, pixels.

    Raises:
        ValueError: For an unknown operation, or an image that is not ``(H, W, 3)`` uint8.
    """

    def __init__(
        self,
        operations: Sequence[str] = OPERATIONS,
        threshold: int = 128,
        radius: Tuple[float, float] = (0.1, 2.0),
    ) -> None:
        unknown = [name for name in operations if name not in OPERATIONS]
        if unknown or not operations:
            raise ValueError(f'unknown operations {unknown}: choose from {", ".join(OPERATIONS)}')
        self.operations = tuple(operations)
        self.threshold = threshold
        self.radius = tuple(radius)

    def transform(self, results: dict) -> dict:
        """Replaces ``results['img']``."""
        img = results['img']
        if img.dtype != np.uint8 or img.ndim != 3 or img.shape[-1] != 3:
            raise ValueError(f'ThreeAugment needs a (H, W, 3) uint8 image, got {img.shape} {img.dtype}')
        name = self.operations[np.random.randint(len(self.operations))]
        if name == 'grayscale':
            img = grayscale(img)
        elif name == 'solarize':
            img = solarize(img, self.threshold)
        else:
            img = gaussian_blur(img, np.random.uniform(*self.radius))
        results['img'] = img
        return results

    __call__ = transform

    def __repr__(self) -> str:
        return f'{type(self).__name__}(operations={self.operations}, threshold={self.threshold}, radius={self.radius})'
