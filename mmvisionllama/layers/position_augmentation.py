"""Random coordinates during training, so that no single distance between tokens is learned by heart."""

import math

import torch
from torch import Tensor, nn

from ..errors import OptionError
from .options import at_least_fp32, checked_number


class PositionAugmentation(nn.Module):
    """Stretches all positions of a forward pass by random factors; in evaluation it changes nothing. Holds no tensor.

    ``exp(u)`` with u uniform in ``-ln r ... ln r``: one factor for both axes with r = ``rescale``, and one more for
    each axis with r = ``jitter``. One draw serves all images of a call (packed: all of one grid), from torch's
    generator of the device. Source: Siméoni et al., "DINOv3", 2025 (arXiv 2508.10104), section 3.2 (RoPE-box jittering,
    r = 2), and its released code. There coordinates are measured from the image's centre, here from its first patch,
    which makes no difference between patches; to tokens without a position (class token, registers) the patches move as
    well.

    Args:
        rescale: Largest factor of both axes, at least 1; 1 for none.
        jitter: Largest factor of each axis on its own, at least 1; 1 for none.

    Raises:
        OptionError: For a factor below 1.
    """

    def __init__(self, rescale: float = 1.0, jitter: float = 1.0) -> None:
        super().__init__()
        self.rescale = float(checked_number('rescale of the positions', rescale, 1))
        self.jitter = float(checked_number('jitter of the positions', jitter, 1))
        if self.rescale == self.jitter == 1:
            raise OptionError('position_augmentation changes nothing: give rescale or jitter above 1, or leave it out')

    def forward(self, positions: Tensor) -> Tensor:
        """Positions ``([B,] N, axes)`` to the same shape."""
        if not self.training:
            return positions
        dtype, coordinates = at_least_fp32(positions.dtype), positions.shape[-1]
        for ratio, count in ((self.rescale, 1), (self.jitter, min(coordinates, 2))):
            if ratio > 1:
                factors = torch.rand(count, device=positions.device, dtype=dtype)
                factors = ((2 * factors - 1) * math.log(ratio)).exp()
                positions = positions * factors.repeat(coordinates // count)  # YaRN's positions are two pairs
        return positions

    def extra_repr(self) -> str:
        return f'rescale={self.rescale:g}, jitter={self.jitter:g}'
