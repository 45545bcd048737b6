"""Images at their native resolution and aspect ratio, within a budget of tokens."""

import math
from typing import Optional, Sequence, Tuple, Union

import numpy as np
from mmengine.registry import TRANSFORMS

PatchSize = Union[int, Sequence[int]]


def token_count(size: Sequence[int], patch_size: PatchSize) -> int:
    """Patches of an image of ``size`` (height, width) pixels, partial ones included."""
    patch = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    return math.prod(-(-side // n) for side, n in zip(size, patch))


def fitted_size(size: Sequence[int], patch_size: PatchSize, max_tokens: int, min_tokens: int = 1) -> Tuple[int, int]:
    """The size (height, width) of the same aspect ratio that has ``min_tokens`` to ``max_tokens`` patches.

    An image that has is left as it is. One with more becomes the largest that has not, one with fewer the smallest.
    Where no size of its aspect ratio has a number between narrow limits, it has fewer.
    """
    count = token_count(size, patch_size)
    if min_tokens <= count <= max_tokens:
        return tuple(size)
    patch = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    shrink = count > max_tokens
    factor = math.sqrt((max_tokens if shrink else min_tokens) * math.prod(patch) / math.prod(size))
    step = 0.995 if shrink else 1.005  # partial patches at the edges: a bit smaller, or larger, until it fits
    while True:
        fitted = tuple(max(1, round(side * factor)) for side in size)
        count = token_count(fitted, patch_size)
        if count <= max_tokens and (shrink or count >= min_tokens):
            return fitted
        if shrink and fitted[0] <= patch[0] and fitted[1] <= patch[1]:
            return fitted
        if not shrink and count > max_tokens:
            return fitted_size(fitted, patch_size, max_tokens)
        factor *= step


@TRANSFORMS.register_module()
class ResizeToTokens:
    """Resizes an image, its aspect ratio kept, to no more than ``max_tokens`` patches and no fewer than ``min_tokens``.

    The first limit counts where narrow limits cannot both be kept.

    For packed batches (docs/any_resolution.md): most images stay at their native resolution.

    Required Keys: ``img``. Modified Keys: ``img``, ``img_shape``.

    Args:
        patch_size: Pixels of the backbone's patch, a number or (height, width).
        max_tokens: Largest number of patches.
        min_tokens: Smallest number of patches.
        interpolation: Of mmcv's ``imresize``.

    Raises:
        ValueError: If there is no number of patches between them.
    """

    def __init__(
        self,
        patch_size: PatchSize,
        max_tokens: int,
        min_tokens: int = 1,
        interpolation: str = 'bicubic',
    ) -> None:
        if not 1 <= min_tokens <= max_tokens:
            raise ValueError(f'min_tokens must be in 1 ... max_tokens ({max_tokens}), got {min_tokens}')
        self.patch_size = patch_size
        self.max_tokens = max_tokens
        self.min_tokens = min_tokens
        self.interpolation = interpolation

    def __call__(self, results: dict) -> Optional[dict]:
        """Resizes ``results['img']``, ``(H, W, 3)``."""
        import mmcv

        image: np.ndarray = results['img']
        size = fitted_size(image.shape[:2], self.patch_size, self.max_tokens, self.min_tokens)
        if size != image.shape[:2]:
            results['img'] = mmcv.imresize(image, size[::-1], interpolation=self.interpolation)
        results['img_shape'] = size
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(patch_size={self.patch_size}, tokens={self.min_tokens}...{self.max_tokens})'
