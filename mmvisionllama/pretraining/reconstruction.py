"""What a masked autoencoder sees and what it makes of it."""

from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor, nn

from ..errors import OptionError
from .mae import MAEVisionLLaMA


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


def check_reconstructs(backbone: Any) -> None:
    """Raises an OptionError for a backbone that draws its masks by itself, as mmpretrain's ``MAEViT`` does."""
    if not isinstance(backbone, MAEVisionLLaMA):
        raise OptionError(
            f'reconstructions are drawn under given masks, which {type(backbone).__name__} does not take: they need an '
            f'MAEVisionLLaMA'
        )


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


@torch.no_grad()
def reconstruct_fixed(model: nn.Module, images: Tensor, seed: int = 0) -> Reconstruction:
    """:func:`reconstruct` in evaluation mode, under masks that depend on the seed alone.

    Args:
        model: The whole MAE; its mode is left as it was.
        images: Preprocessed images ``(B, C, H, W)``.
        seed: Seed of the masks.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        rows, cols = model.backbone.patch_embed.grid(images.shape[2:])
        noise = fixed_noise(len(images), rows * cols, seed).to(images.device)
        return reconstruct(model, images, noise)
    finally:
        for module, mode in modes:
            module.training = mode
