"""Original, masked image and reconstruction of a masked autoencoder as one picture."""

from typing import Optional, Sequence

import numpy as np
from torch import Tensor

from ..moved import moved

COLUMNS = ('original', 'masked', 'reconstruction')


def to_uint8(images: Tensor, mean: Optional[Tensor] = None, std: Optional[Tensor] = None) -> np.ndarray:
    """Normalised images ``(B, C, H, W)`` to pixels ``(B, H, W, C)``; ``mean`` and ``std`` are of shape (C, 1, 1)."""
    images = images.float().cpu()
    if mean is not None:
        images = images * std.cpu() + mean.cpu()
    return images.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def draw(columns: Sequence[np.ndarray], titles: Sequence[str] = COLUMNS, min_side: int = 112) -> np.ndarray:
    """Lays images out as a table: one row per image, one column per array of ``columns``.

    Args:
        columns: Arrays of pixels ``(B, H, W, 3)`` or ``(B, H, W, 1)``.
        titles: Written above the columns.
        min_side: Smaller images are enlarged by a whole factor.

    Returns:
        ndarray: The picture, ``(height, width, 3)``, uint8, RGB.
    """
    from PIL import Image, ImageDraw

    gap, title_height = 4, 16
    rows, height, width = columns[0].shape[:3]
    zoom = max(1, -(-min_side // min(height, width)))
    height, width = height * zoom, width * zoom
    size = (gap + len(columns) * (width + gap), title_height + rows * (height + gap))
    picture = Image.new('RGB', size, 'white')
    pen = ImageDraw.Draw(picture)
    for i, (column, title) in enumerate(zip(columns, titles)):
        left = gap + i * (width + gap)
        pen.text((left + 2, 2), title, fill='black')
        for j, pixels in enumerate(column):
            pixels = pixels.repeat(3, axis=-1) if pixels.shape[-1] == 1 else pixels
            image = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
            picture.paste(image, (left, title_height + j * (height + gap)))
    return np.asarray(picture)


def draw_reconstruction(
    parts: Sequence[Tensor], mean: Optional[Tensor] = None, std: Optional[Tensor] = None
) -> np.ndarray:
    """The picture of a :class:`~mmvisionllama.pretraining.reconstruction.Reconstruction`.

    Args:
        parts: Normalised images ``(B, C, H, W)``, one tensor per column; three channels are taken for RGB.
        mean: Of the model's preprocessor, ``(C, 1, 1)``.
        std: Likewise.

    Returns:
        ndarray: ``(height, width, 3)``, uint8, RGB.
    """
    return draw([to_uint8(part, mean, std) for part in parts])


__getattr__ = moved(
    __name__,
    Reconstruction='pretraining.reconstruction',
    reconstruct='pretraining.reconstruction',
    fixed_noise='pretraining.reconstruction',
    reconstruction_picture='engine.hooks.reconstruction',
)
