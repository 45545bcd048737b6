"""Patch embedding, and position embeddings that are added to the tokens: learnable, PEG (Table 7g), sin-cos (DiT)."""

import math
from typing import Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import OptionError
from .options import at_least_fp32, autocast_dtype, ceil_div, checked_sides, checked_whole, size_agnostic


class PatchProjection(nn.Conv2d):
    """Convolution of stride = kernel size, as the matrix product that it is.

    Faster than the general convolution, and inductor compiles it for every image size: torch 2.11 keeps the strides of
    the first size in the backward pass of a convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H * kh, W * kw)`` to row-major tokens ``(B, H * W, C)``."""
        channels_last = x.stride(1) == 1
        b, c, height, width = x.shape
        kh, kw = self.kernel_size
        x = x.view(b, c, height // kh, kh, width // kw, kw)  # unflatten() would fix the batch in TorchScript's ONNX
        # [B, in_channels, H, kh, W, kw], copied in the longest runs that its layout has
        if channels_last:
            x, weight = x.permute(0, 2, 4, 3, 5, 1), self.weight.permute(0, 2, 3, 1)
        else:
            x, weight = x.permute(0, 2, 4, 1, 3, 5), self.weight
        return F.linear(x.flatten(3).flatten(1, 2), weight.flatten(1), self.bias)


class PatchEmbed(nn.Module):
    """Convolution of stride = kernel = patch size, with bias.

    Sides that are no multiple of the patch are padded with zeros right and bottom, as mmcv's ``PatchEmbed`` does with
    ``padding='corner'``.

    Args:
        in_channels: Channels of the image.
        embed_dims: Channels C of a token.
        patch_size: Side of a patch in pixels, or (height, width).
        norm: Norm over C after the projection, or None.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        patch_size: Union[int, Sequence[int]],
        norm: Optional[nn.Module] = None,
    ) -> None:
        super().__init__()
        checked_whole('in_channels', in_channels)
        checked_whole('embed_dims', embed_dims)
        self.patch_size = checked_sides('patch_size', patch_size)
        self.projection = PatchProjection(in_channels, embed_dims, self.patch_size, self.patch_size)
        self.norm = norm

    def grid(self, size: Sequence[int]) -> Tuple[int, int]:
        """Token grid (H, W) of an image of ``size`` (height, width) pixels."""
        return tuple(ceil_div(side, patch) for side, patch in zip(size, self.patch_size))

    def forward(self, x: Tensor) -> Tuple[Tensor, Tuple[int, int]]:
        """Images ``(B, in_channels, height, width)`` to tokens ``(B, H * W, C)`` and the grid ``(H, W)``.

        Raises:
            OptionError: If ``x`` has another number of channels or dimensions, no pixels, or another dtype.
        """
        expected = self.projection.in_channels
        if x.ndim != 4 or x.shape[1] != expected or 0 in x.shape[2:]:
            raise OptionError(
                f'expected images of shape (B, {expected}, H, W), got {tuple(x.shape)}: '
                f'check in_channels and the data pipeline'
            )
        weight = self.projection.weight
        if not x.is_floating_point():
            raise OptionError(f'expected images in floating point, got {x.dtype}: a data preprocessor normalises them')
        if autocast_dtype(x) != autocast_dtype(weight):
            raise OptionError(
                f'images in {x.dtype} and weights in {weight.dtype}: cast the ones or the others, or run under autocast'
            )
        grid = self.grid(x.shape[2:])
        pad_h, pad_w = (n * patch - side for n, patch, side in zip(grid, self.patch_size, x.shape[2:]))
        if size_agnostic() or pad_h or pad_w:
            x = F.pad(x, (0, pad_w, 0, pad_h))
        # the residual stream keeps the dtype of the weights: fp32 under autocast
        x = self.projection(x).to(weight.dtype)  # [B, H * W, C]
        return (x if self.norm is None else self.norm(x)), grid


class PEG(nn.Module):
    """Position encoding generator: a 3 x 3 depth-wise convolution added to the map (Table 7g, the paper's [13]).

    Args:
        embed_dims: Channels C.
        kernel_size: Side of the kernel.
    """

    def __init__(self, embed_dims: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(embed_dims, embed_dims, kernel_size, padding=kernel_size // 2, groups=embed_dims)

    def forward(self, x: Tensor, grid: Sequence[int]) -> Tensor:
        """Row-major tokens ``(B, H * W, C)`` of ``grid`` (H, W) to the same shape."""
        maps = x.transpose(1, 2).unflatten(2, tuple(grid))  # [B, C, H, W]
        return x + self.conv(maps).flatten(2).transpose(1, 2)


#: how position embeddings can be resampled
INTERPOLATE_MODES = ('bicubic', 'bilinear')


def resize_pos_embed(pos_embed: Tensor, grid: Sequence[int], new_grid: Sequence[int], mode: str = 'bicubic') -> Tensor:
    """Resamples a learnable position embedding: ``(1, H * W, C)`` to ``(1, H' * W', C)``."""
    if not size_agnostic() and tuple(grid) == tuple(new_grid):
        return pos_embed
    maps = pos_embed.transpose(1, 2).unflatten(2, tuple(grid)).to(at_least_fp32(pos_embed.dtype))  # [1, C, H, W]
    maps = F.interpolate(maps, size=tuple(new_grid), mode=mode, align_corners=False)
    return maps.flatten(2).transpose(1, 2).to(pos_embed.dtype)


def sinusoid(values: Tensor, dims: int, max_period: float = 10000.0) -> Tensor:
    """``[cos | sin]`` features of ``values`` (any shape) in fp32: ``(...,)`` to ``(..., dims)``."""
    half = dims // 2
    freqs = torch.exp(torch.arange(half, device=values.device, dtype=torch.float32) * (-math.log(max_period) / half))
    angles = values.float()[..., None] * freqs
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def sincos_embedding(positions: Tensor, embed_dims: int) -> Tensor:
    """DiT's absolute embedding: ``(N, 2)`` positions (x, y) to ``(N, C)``, [sin | cos] of x, then of y."""
    x, y = (sinusoid(positions[:, axis], embed_dims // 2) for axis in (0, 1))
    return torch.cat([half for axis in (x, y) for half in reversed(axis.chunk(2, dim=-1))], dim=-1)
