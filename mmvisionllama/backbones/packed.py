"""Packed native resolution: images of any sizes in one sequence, without a padded token.

Rotary tables are functions of positions, so each image has those of its own grid; linear layers and norms do not care
which token is whose; attention runs inside each image.
"""

from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import AttentionContext
from ..layers.attention import placed_context
from ..layers.options import at_least_fp32
from ..layers.segments import Segments, join


class Pack:
    """Images sorted so that equal token grids stand together, and what came of them sorted back.

    Args:
        images: ``(C, height, width)`` each.
        patch: Pixels (height, width) of a token.

    Attributes:
        grids (list): Token grid (H, W) of each group.
        batches (list): Its images ``(count, C, H * patch height, W * patch width)``, cut to whole patches with zeros.
    """

    def __init__(self, images: Sequence[Tensor], patch: Sequence[int]) -> None:
        if not len(images) or any(image.ndim != 3 for image in images):
            raise ValueError('packing takes one or more images of shape (C, height, width)')
        groups: Dict[Tuple[int, int], List[int]] = {}
        for index, image in enumerate(images):
            grid = tuple(-(-side // n) for side, n in zip(image.shape[1:], patch))
            groups.setdefault(grid, []).append(index)
        self.grids = sorted(groups, key=lambda grid: (grid[0] * grid[1], grid))
        self.members = [groups[grid] for grid in self.grids]
        self.batches = []
        for (rows, cols), members in zip(self.grids, self.members):
            size = rows * patch[0], cols * patch[1]
            whole = (
                F.pad(images[n], (0, size[1] - images[n].shape[2], 0, size[0] - images[n].shape[1])) for n in members
            )
            self.batches.append(torch.stack(list(whole)))

    def in_order(self, batches: Sequence[Sequence[Any]]) -> List[Any]:
        """One item for each image of each group to a list in the order in which the images came."""
        items: List[Any] = [None] * sum(map(len, self.members))
        for members, batch in zip(self.members, batches):
            for index, item in zip(members, batch):
                items[index] = item
        return items

    def rows(self, parts: Sequence[Tensor], shared_ndim: int) -> Tensor:
        """One tensor for each group, ``(count, N, ...)`` or for all its images ``(N, ...)``, to ``(T, ...)``.

        Args:
            parts: The groups' tensors.
            shared_ndim: Dimensions of one that all images of a group share.
        """
        rows = []
        for part, members in zip(parts, self.members):
            part = part.expand(len(members), *part.shape) if part.ndim == shared_ndim else part
            rows.append(part.flatten(0, 1))
        return torch.cat(rows)

    def context(
        self,
        rotary: nn.Module,
        positions: Sequence[Tensor],
        lengths: Sequence[int],
        scales: Sequence[Optional[float]],
    ) -> AttentionContext:
        """Context of the sequence.

        Args:
            rotary: Makes the table, once for all groups: launches are what packing costs on a GPU.
            positions: Those of each group's images, ``(count, N, axes)`` or for all of them ``(N, axes)``.
            lengths: Tokens of one image of each group.
            scales: Factor of each group's logits, None for 1.
        """
        options: Dict[str, Any] = dict(segments=packed_segments(self, lengths))
        if any(scale is not None for scale in scales):
            counts = [len(members) * length for members, length in zip(self.members, lengths)]
            like = self.batches[0]
            wide = at_least_fp32(like.dtype)
            rows = [like.new_full((n,), scale or 1.0, dtype=wide) for n, scale in zip(counts, scales)]
            options['logit_scale'] = torch.cat(rows)[None, :, None, None]  # [1, T, 1, 1]
        return placed_context(rotary, self.rows(positions, 2), **options)


class PackedForward:
    """``forward_packed`` of the plain backbones."""

    def packed_context(self, pack: Pack, lengths: Sequence[int], x: Tensor) -> AttentionContext:
        """Positions and runs of the packed tokens ``x``, ``(1, T, C)``.

        Raises:
            ValueError: For a backbone whose attention cannot be packed.
        """
        raise ValueError(f'{type(self).__name__} takes no packed images: pad them and give valid_sizes instead')

    def forward_packed(self, images: Sequence[Tensor]) -> Tuple[Union[Tensor, List[Tensor]], ...]:
        """Images of any sizes, each computed as it is alone, without padding one to another.

        Args:
            images: ``(in_channels, height, width)`` each. ``forward`` takes such a list too, so that stock classifiers
                do.

        Returns:
            tuple: One output per out_index: ``(images, C)`` for ``out_type`` ``'cls_token'`` and ``'avg_featmap'``, a
            list of maps ``(C, H, W)``, pairs of a map and a class token, or tokens ``(N, C)`` for the others.

        Raises:
            ValueError: For a backbone with windowed blocks, and for no images.
        """
        pack = Pack(images, self.first_patch)
        tokens = [self.embed_tokens(batch)[0] for batch in pack.batches]  # [count, N, C] each
        shapes = [part.shape[:2] for part in tokens]
        x = join(tokens)  # [1, T, C]
        context = self.packed_context(pack, [length for _, length in shapes], x)
        outs = []
        for i, layer in enumerate(self.layers):
            x = layer(x, context)
            if i == 0 and getattr(self, 'peg', None) is not None:
                parts = zip(split(x, shapes), pack.grids)
                x = join([self.after_block(part, i, grid) for part, grid in parts])
            if i == self.num_layers - 1 and self.final_norm:
                x = self.ln1(x)
            if self.is_output(i):
                parts = zip(split(x, shapes), pack.grids)
                formed = [self.format_output(part, grid) for part, grid in parts]
                items = pack.in_order([list(zip(*part)) if isinstance(part, tuple) else part for part in formed])
                outs.append(torch.stack(items) if self.out_type in ('cls_token', 'avg_featmap') else items)
        return tuple(outs)


def split(x: Tensor, shapes: Sequence[Tuple[int, int]]) -> List[Tensor]:
    """Tokens ``(1, T, C)`` to one batch ``(count, N, C)`` for each group."""
    parts = x[0].split([count * length for count, length in shapes])
    return [part.unflatten(0, shape) for part, shape in zip(parts, shapes)]


def packed_segments(pack: Pack, lengths: Sequence[int]) -> Segments:
    """Runs of a pack whose groups have ``lengths`` tokens an image."""
    return Segments([(len(members), length) for members, length in zip(pack.members, lengths)])
