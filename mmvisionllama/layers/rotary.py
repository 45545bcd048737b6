"""The rotation of queries and keys by the angles of a table.

Legend: B batch, N tokens, h heads, d head dim, P rotation planes (= rotated channels / 2).
"""

from typing import NamedTuple, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..moved import moved
from . import kernels
from .options import exporting


class RotaryTable(NamedTuple):
    """Cosines and sines of one set of tokens, fp32 (fp64 for positions in fp64).

    Attributes:
        cos (Tensor): ``([B,] N, 1 | h, P)``; the heads axis is 1 when all heads share the frequencies.
        sin (Tensor): As ``cos``.
    """

    cos: Tensor
    sin: Tensor


def gather_table(table: RotaryTable, index: Tensor) -> RotaryTable:
    """Rows of a table for each sample of a masked batch.

    Args:
        table: Table of the full grid, ``(N, 1 | h, P)``.
        index: Kept tokens of each sample, ``(B, N_keep)``, int64.

    Returns:
        RotaryTable: ``(B, N_keep, 1 | h, P)``.
    """
    return RotaryTable(table.cos[index], table.sin[index])


def rotate(x: Tensor, table: RotaryTable) -> Tensor:
    """:func:`apply_rotary` as its formula, for compilers, exporters and learned tables."""
    rotated = 2 * table.cos.shape[-1]
    dtype = torch.promote_types(x.dtype, table.cos.dtype)
    pairs = x[..., :rotated].to(dtype).unflatten(-1, (-1, 2))  # [B, N, h, P, 2]
    if x.is_cuda and not torch.is_grad_enabled():  # compiled, faster forward and slower backward, and slow on CPUs
        sin = torch.stack((-table.sin, table.sin), dim=-1)
        turned = pairs * table.cos[..., None] + pairs.flip(-1) * sin
    else:
        even, odd = pairs.unbind(-1)  # [B, N, h, P] each
        turned = torch.stack((even * table.cos - odd * table.sin, even * table.sin + odd * table.cos), dim=-1)
    turned = turned.flatten(-2).to(x.dtype)
    return turned if rotated == x.shape[-1] else torch.cat((turned, x[..., rotated:]), dim=-1)


def rotate_pairs(x: Tensor, table: RotaryTable) -> Tensor:
    """:func:`rotate` with the same products and sums in fewer, larger operations, which is what runtimes like."""
    rotated = 2 * table.cos.shape[-1]
    dtype = torch.promote_types(x.dtype, table.cos.dtype)
    cos = torch.stack((table.cos, table.cos), dim=-1).flatten(-2)  # [N, 1 | h, 2P]
    sin = torch.stack((-table.sin, table.sin), dim=-1).flatten(-2)
    pairs = x[..., :rotated].to(dtype)
    swapped = pairs[..., torch.arange(rotated, device=x.device) ^ 1]  # channels 1, 0, 3, 2, ...
    turned = (pairs * cos + swapped * sin).to(x.dtype)
    return turned if rotated == x.shape[-1] else torch.cat((turned, x[..., rotated:]), dim=-1)


def rotate_halves(x: Tensor, table: RotaryTable) -> Tensor:
    """:func:`rotate` of heads whose pairs are the channels (m, m + d / 2).

    Written as OpenVINO knows it, which makes one operation of it, but only if the tables have four axes and the axis of
    the split is not counted from the end.
    """
    x, dtype = x.to(torch.promote_types(x.dtype, table.cos.dtype)), x.dtype
    first, second = x.chunk(2, dim=x.ndim - 1)  # [B, N, h, d / 2] each
    rest = first.shape[-1] - table.cos.shape[-1]
    cos, sin = (F.pad(part, (0, rest), value=value) if rest else part for part, value in zip(table, (1.0, 0.0)))
    cos, sin = (torch.cat((part, part), dim=-1) for part in (cos, sin))
    cos, sin = (part if part.ndim == x.ndim else part[None] for part in (cos, sin))  # [1, N, 1 | h, d]
    return (x * cos + torch.cat((second * -1.0, first), dim=-1) * sin).to(dtype)


def check_table(table: RotaryTable) -> None:
    """Raises a TypeError for angles in half precision, which cannot tell neighbouring positions apart."""
    if table.cos.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(
            f'rotary tables must be fp32 or fp64, got {table.cos.dtype}: do not cast the context of a block'
        )


def apply_rotary(x: Tensor, table: RotaryTable, halves: bool = False) -> Tensor:
    """Rotates the channel pairs (2m, 2m+1) of ``x`` by the angles: (a, b) to (a cos - b sin, a sin + b cos).

    Args:
        x: Queries or keys, ``(B, N, h, d)``.
        table: Table of the same N tokens; channels past its 2P are left as they are.
        halves: The pairs are (m, m + d / 2); for exporters, which reorder the weights.

    Returns:
        Tensor: Shape and dtype of ``x``. The rotation itself runs in fp32, in fp64 for ``x`` in fp64.

    Raises:
        TypeError: For a table in half precision.
    """
    check_table(table)
    if halves:
        return rotate_halves(x, table)
    if kernels.can_rotate(x, table.cos):
        return kernels.rotate(x, *table)
    return rotate_pairs(x, table) if exporting() else rotate(x, table)


def rotate_qkv(
    qkv: Tensor, table: RotaryTable, in_place: bool = False, halves: bool = False
) -> Tuple[Tensor, Tensor, Tensor]:
    """Rotates q and k of a packed projection.

    Args:
        qkv: ``(B, N, 3, h, d)``.
        table: Table of the N tokens.
        in_place: The result may lie where ``qkv`` lies, which nobody else needs then.
        halves: As in :func:`apply_rotary`.

    Returns:
        tuple: q, k, v, each ``(B, N, h, d)`` in qkv's dtype.

    Raises:
        TypeError: For a table in half precision.
    """
    check_table(table)
    if halves:
        q, k, v = qkv.unbind(2)
        return rotate_halves(q, table), rotate_halves(k, table), v
    if exporting():
        table = RotaryTable(table.cos.unsqueeze(-3), table.sin.unsqueeze(-3))
        return *rotate_pairs(qkv[:, :, :2], table).unbind(2), qkv[:, :, 2]
    if kernels.can_rotate(qkv, table.cos):
        return kernels.rotate_qkv(qkv, *table, in_place)
    q, k, v = qkv.unbind(2)
    return rotate(q, table), rotate(k, table), v


__getattr__ = moved(
    __name__,
    RotaryEmbedding='layers',
    axis_scales='layers',
    grid_positions='layers',
    at_least_fp32='layers.options',
    to_2tuple='layers.options',
)
