"""What a masked autoencoder sees and what it makes of it, as one picture: original, masked, reconstruction."""

from typing import NamedTuple, Optional, Sequence

import numpy as np
import torch
from torch import Tensor, nn

COLUMNS = ('original', 'masked', 'reconstruction')


class Reconstruction(NamedTuple):
    """Images ``(B, C, H, W)``, normalised as the model's input.

    Attributes:
        original (Tensor): The input.
        masked (Tensor): Hidden patches set to 0, the mean colour.
        reconstruction (Tensor): The visible patches, and the prediction in the place of the hidden ones.
    """

    original: Tensor
    masked: Tensor
    reconstruction: Tensor


@torch.no_grad()
def reconstruct(model: nn.Module, images: Tensor, noise: Optional[Tensor] = None) -> Reconstruction:
    """Runs mmpretrain's ``MAE`` on preprocessed images.

    A decoder that was trained on normalised patches predicts neither the mean nor the contrast of a patch; both are
    taken from the original, as in the MAE paper's figures.

    Args:
        model: The whole MAE: backbone, decoder (neck) and head.
        images: Preprocessed images ``(B, C, H, W)``.
        noise: Ranks the patches of each image, ``(B, N)``; drawn anew without it.
    """
    head = model.head
    latent, mask, ids_restore = model.backbone(images, noise=noise)
    pred = model.neck(latent, ids_restore)  # [B, N, p * p * C]
    patches = head.patchify(images)
    if head.norm_pix:
        pred = pred * (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt() + patches.mean(dim=-1, keepdim=True)
    hidden = mask[..., None]
    masked = head.unpatchify(patches * (1 - hidden))
    return Reconstruction(images, masked, head.unpatchify(torch.where(hidden > 0, pred.to(patches.dtype), patches)))


def fixed_noise(batch: int, tokens: int, seed: int = 0) -> Tensor:
    """Noise ``(batch, tokens)`` that depends on the seed alone and leaves torch's generator as it is."""
    return torch.rand(batch, tokens, generator=torch.Generator().manual_seed(seed))


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


@torch.no_grad()
def reconstruction_picture(model: nn.Module, images: Tensor, seed: int = 0) -> np.ndarray:
    """The picture of preprocessed images under masks that depend on the seed alone.

    Args:
        model: The whole MAE; its mode is left as it was.
        images: Preprocessed images ``(B, C, H, W)``; three channels are taken for RGB.
        seed: Seed of the masks.

    Returns:
        ndarray: ``(height, width, 3)``, uint8, RGB.
    """
    training = model.training
    model.eval()
    rows, cols = model.backbone.patch_embed.grid(images.shape[2:])
    noise = fixed_noise(len(images), rows * cols, seed).to(images.device)
    parts = reconstruct(model, images, noise)
    model.train(training)
    preprocessor = model.data_preprocessor
    mean, std = getattr(preprocessor, 'mean', None), getattr(preprocessor, 'std', None)
    return draw([to_uint8(part, mean, std) for part in parts])
