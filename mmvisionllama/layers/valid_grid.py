"""The part of a padded batch that each image fills: what positions, masks, and pooling need to ignore the rest.

Legend: B batch, H x W grid of the padded batch, N = H * W.
"""

import threading
from typing import Dict, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

from .options import at_least_fp32, ceil_div

#: one (height, width) in pixels per image, as numbers or as a tensor (B, 2)
ImageSizes = Union[Sequence[Sequence[int]], Tensor]


class ValidGrid:
    """Each image of a batch fills the first rows and columns of one padded grid, of pixels, tokens or cells.

    The sizes are tensors, never numbers of Python: a compiled model serves batches of any sizes with one graph.

    Args:
        sizes: Rows and columns of each image, ``(B, 2)`` whole numbers, on the device of the tokens.
        grid: Grid (H, W) of the padded batch.

    Attributes:
        mask (Tensor): True where the image is, ``(B, H, W)``.
    """

    def __init__(self, sizes: Tensor, grid: Sequence[int]) -> None:
        self.sizes = sizes
        self.grid: Tuple[int, int] = tuple(grid)
        rows, cols = (torch.arange(side, device=sizes.device) for side in self.grid)
        self.mask = (rows < sizes[:, :1])[:, :, None] & (cols < sizes[:, 1:])[:, None]  # [B, H, W]

    def coarser(self, patch: Sequence[int]) -> 'ValidGrid':
        """Grid of the patches of (height, width) ``patch`` that hold a part of the image."""
        sizes = torch.stack([ceil_div(side, n) for side, n in zip(self.sizes.unbind(1), patch)], dim=1)
        return ValidGrid(sizes, [ceil_div(side, n) for side, n in zip(self.grid, patch)])

    def sides(self, dtype: torch.dtype = torch.float32) -> Tuple[Tensor, Tensor]:
        """Rows and columns of each image, ``(B, 1)`` each: a grid (H, W) for every formula that broadcasts."""
        return self.sizes[:, :1].to(dtype), self.sizes[:, 1:].to(dtype)

    def hide_pixels(self, x: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)`` with zeros outside of the images."""
        return x.masked_fill(~self.mask[:, None], 0)

    def hide(self, x: Tensor, before: int = 0, after: int = 0) -> Tensor:
        """Row-major tokens ``(B, before + N + after, C)`` with zeros outside of the images."""
        return x.masked_fill(~self.token_mask(before, after)[..., None], 0)

    def token_mask(self, before: int = 0, after: int = 0) -> Tensor:
        """True for the images' tokens and for those ``before`` and ``after`` the grid: ``(B, before + N + after)``."""
        return torch.nn.functional.pad(self.mask.flatten(1), (before, after), value=True)

    def key_mask(self, before: int = 0, after: int = 0) -> Tensor:
        """:meth:`token_mask` for the keys of :func:`~mmvisionllama.layers.attend`: ``(B, 1, 1, N')``."""
        return self.token_mask(before, after)[:, None, None]

    def mean(self, x: Tensor) -> Tensor:
        """Mean of each image's own tokens: ``(B, N, C)`` to ``(B, C)``."""
        wide = at_least_fp32(x.dtype)  # a sum over many tokens exceeds fp16, and bf16 knows only small counts
        count = self.sizes.prod(dim=1, keepdim=True).to(wide)
        return (self.hide(x).sum(dim=1, dtype=wide) / count).to(x.dtype)


class BatchPixels:
    """Where the images of the batch are that a model is at, for each thread its own: a model may serve several.

    Compilers do not know threads: in their graphs it is what was set last.
    """

    def __init__(self) -> None:
        self.last: Optional[ValidGrid] = None
        self.set_in_graph = False
        self.of_thread: Dict[int, ValidGrid] = {}

    def set(self, value: Optional[ValidGrid]) -> None:
        """None: all of the batch is image, or nobody knows."""
        self.last, self.set_in_graph = value, torch.compiler.is_compiling()
        if self.set_in_graph:
            return
        if value is None:
            self.of_thread.pop(threading.get_ident(), None)
        else:
            self.of_thread[threading.get_ident()] = value

    def get(self) -> Optional[ValidGrid]:
        """What this thread has set."""
        if torch.compiler.is_compiling():
            return self.last
        # what runs between two graphs belongs to them
        return self.of_thread.get(threading.get_ident(), self.last if self.set_in_graph else None)


def checked_sizes(sizes: ImageSizes, images: Tensor) -> Tensor:
    """The images' own sizes as a tensor ``(B, 2)``, int64, on their device.

    Args:
        sizes: One (height, width) in pixels per image, as numbers or as a tensor ``(B, 2)``. Numbers are checked; the
            values of a tensor are not, since reading them would stall a GPU.
        images: The padded batch, ``(B, C, H, W)``.

    Raises:
        ValueError: For another number of sizes, or one that does not fit into the batch.
    """
    if not isinstance(sizes, Tensor):
        sizes = [tuple(int(side) for side in size) for size in sizes]
        for size in sizes:
            if len(size) != 2 or not all(0 < own <= side for own, side in zip(size, images.shape[2:])):
                raise ValueError(
                    f'an image of size {size} does not fit into a batch of {tuple(images.shape[2:])}: give the '
                    f'(height, width) of each image, padded at its right and bottom'
                )
        sizes = torch.tensor(sizes).view(-1, 2)
    if sizes.shape != (len(images), 2):
        raise ValueError(f'{len(images)} images need valid_sizes of shape ({len(images)}, 2), got {tuple(sizes.shape)}')
    return sizes.to(images.device, torch.long)


def resize_pos_embed_each(pos_embed: Tensor, grid: Sequence[int], valid: ValidGrid, mode: str = 'bicubic') -> Tensor:
    """:func:`~mmvisionllama.layers.resize_pos_embed` onto each image's own grid: ``(1, M, C)`` to ``(B, N, C)``.

    Samples the same filter at the same places; rows and columns outside of an image continue its grid.
    """
    wide = at_least_fp32(pos_embed.dtype)
    maps = pos_embed.transpose(1, 2).unflatten(2, tuple(grid)).to(wide)  # [1, C, H0, W0]
    centres = [torch.arange(side, device=maps.device, dtype=wide) + 0.5 for side in valid.grid]
    rows, cols = (2 * centre / own - 1 for centre, own in zip(centres, valid.sides(wide)))  # [B, H], [B, W]
    batch, (height, width) = len(rows), valid.grid
    places = torch.stack(
        (cols[:, None].expand(batch, height, width), rows[:, :, None].expand(batch, height, width)), dim=-1
    )
    maps = torch.nn.functional.grid_sample(
        maps.expand(batch, -1, -1, -1), places, mode=mode, padding_mode='border', align_corners=False
    )
    return maps.flatten(2).transpose(1, 2).to(pos_embed.dtype)


def own_sides(grid: Sequence[int], valid: Optional[ValidGrid], dtype: torch.dtype = torch.float32) -> Tuple:
    """Sides that positions are scaled by: those of the grid, or of each image's own part of it, ``(B, 1)`` each."""
    return tuple(grid) if valid is None else valid.sides(dtype)
