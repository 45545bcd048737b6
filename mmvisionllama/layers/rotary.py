"""Rotary position embedding: 1D, 2D and auto-scaled 2D (AS2DRoPE).

Legend: B batch, N tokens, h heads, d head dim, P rotation planes (= rotated channels / 2), H x W token grid.
Positions are ``(x, y)`` = (column, row). Everything here is real arithmetic, in fp32 at least, and free of state: a
table is a pure function of the positions given, so no grid size, device or mode can leave a stale one behind.
"""

import math
from typing import NamedTuple, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

SCALES = ('per_axis', 'height', 'none', 'released')
KINDS = ('2d', '1d')


class RotaryTable(NamedTuple):
    """Cosines and sines of one set of tokens, fp32 (fp64 for positions in fp64).

    Attributes:
        cos (Tensor): ``([B,] N, 1 | h, P)``; the heads axis is 1 when all heads share the frequencies.
        sin (Tensor): As ``cos``.
    """

    cos: Tensor
    sin: Tensor


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """Dtype in which positions, angles and rotations of tokens of ``dtype`` are computed."""
    return torch.promote_types(dtype, torch.float32)


def axis_scales(grid: Sequence[int], anchor: Optional[Sequence[float]], scale: str = 'per_axis') -> Tuple[float, float]:
    """Factors of AS2DRoPE (eq. 4) that map positions of ``grid`` onto the anchor grid.

    Args:
        grid: Token grid ``(H, W)`` of the input.
        anchor: Token grid ``(H0, W0)`` that the weights were trained on; ``None`` leaves positions as they are.
        scale: ``'per_axis'`` scales y by H0/H and x by W0/W; ``'height'`` (what the released plain models do, also
            spelt ``'released'``) scales both by H0/H; ``'none'`` is unscaled 2D RoPE.

    Returns:
        ``(scale_x, scale_y)``.
    """
    if scale not in SCALES:
        raise ValueError(f'unknown rotary scale {scale!r}: choose one of {", ".join(map(repr, SCALES))}')
    if scale == 'none' or anchor is None:
        return 1.0, 1.0
    scale_y = anchor[0] / grid[0]
    return (anchor[1] / grid[1] if scale == 'per_axis' else scale_y), scale_y


def grid_positions(
    grid: Sequence[int],
    anchor: Optional[Sequence[float]] = None,
    scale: str = 'per_axis',
    device: Optional[torch.device] = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Positions ``(x, y)`` of a row-major token grid, scaled onto the anchor grid (eq. 4).

    Args:
        grid: See :func:`axis_scales`, as are ``anchor`` and ``scale``.
        device: Device of the tokens.
        dtype: Dtype of the tokens; positions are never kept below fp32.

    Returns:
        Tensor: ``(H * W, 2)``, fp32 or fp64.
    """
    height, width = grid
    scale_x, scale_y = axis_scales(grid, anchor, scale)
    dtype = at_least_fp32(dtype)
    x = torch.arange(width, device=device, dtype=dtype) * scale_x
    y = torch.arange(height, device=device, dtype=dtype) * scale_y
    x = x.expand(height, width)  # [H, W]
    y = y[:, None].expand(height, width)  # [H, W]
    return torch.stack((x, y), dim=-1).reshape(height * width, 2)


def sequence_positions(
    length: int,
    scale: float = 1.0,
    device: Optional[torch.device] = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Positions 0 ... length - 1 for 1D RoPE, times ``scale``: ``(length, 1)``, fp32 or fp64."""
    return (torch.arange(length, device=device, dtype=at_least_fp32(dtype)) * scale)[:, None]


class RotaryEmbedding(nn.Module):
    """Turns positions into the rotary table of section 3.3 (eq. 3 and 4). Holds no tensor.

    With 2D positions planes alternate between the axes: plane 2k turns by ``x * theta_k`` and plane 2k+1 by
    ``y * theta_k``, ``theta_k = base ** (-4k / r)`` for r rotated channels. With 1D positions plane k turns by
    ``n * base ** (-2k / r)``.

    Args:
        head_dim: Channels of one head, d.
        num_heads: Needed when ``share_heads`` is False.
        kind: ``'2d'`` or ``'1d'``.
        base: Base of the frequencies (Table 7d).
        ratio: Part of the head's channels that is rotated, the first ``ratio * d`` (Table 7c).
        share_heads: One set of frequencies for every head; False runs one set over all channels (Table 7e).
        ntk_alpha: NTK-aware variant (Table 12): the base becomes ``base * ntk_alpha``.
        scale: See :func:`axis_scales`. ``None`` takes ``'per_axis'`` for AS2DRoPE and ``'none'`` for the 1D and
            NTK-aware variants, which the paper compares without position scaling.

    Raises:
        ValueError: If the number of rotated channels is no positive multiple of 4 (2D) or 2 (1D).

    Examples:
        >>> rotary = RotaryEmbedding(64)
        >>> table = rotary(rotary.positions((20, 30), anchor=(14, 14)))
        >>> table.cos.shape
        torch.Size([600, 1, 32])
    """

    def __init__(
        self,
        head_dim: int,
        num_heads: Optional[int] = None,
        *,
        kind: str = '2d',
        base: float = 10000.0,
        ratio: float = 1.0,
        share_heads: bool = True,
        ntk_alpha: float = 1.0,
        scale: Optional[str] = None,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f'unknown rotary kind {kind!r}: choose one of {", ".join(map(repr, KINDS))}')
        if base <= 0 or ntk_alpha <= 0:
            raise ValueError(f'rotary base and ntk_alpha must be positive, got {base} and {ntk_alpha}')
        divisor = 4 if kind == '2d' else 2
        rotated = round(ratio * head_dim, 6)  # 0.29 * 100 is no whole number in floating point
        if not 0 < ratio <= 1 or rotated % divisor or not rotated:
            raise ValueError(
                f'{kind.upper()} RoPE rotates {ratio:g} x head dim {head_dim} = {rotated:g} channels, which must be a '
                f'positive multiple of {divisor}: change embed_dims, num_heads or the rotary ratio'
            )
        if not share_heads and not num_heads:
            raise ValueError('share_heads=False needs num_heads')
        if scale is None:
            scale = 'per_axis' if kind == '2d' and ntk_alpha == 1 else 'none'
        if scale not in SCALES:
            raise ValueError(f'unknown rotary scale {scale!r}: choose one of {", ".join(map(repr, SCALES))}')
        self.head_dim = head_dim
        self.num_heads = num_heads
        self.kind = kind
        self.base = float(base)
        self.share_heads = share_heads
        self.ntk_alpha = float(ntk_alpha)
        self.scale = scale
        self.rotary_dim = int(rotated)

    def positions(
        self,
        grid: Sequence[int],
        anchor: Optional[Sequence[float]] = None,
        device: Optional[torch.device] = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Positions of a whole token grid: ``(H * W, 2)``, or ``(H * W, 1)`` for 1D RoPE; fp32 or fp64.

        Scaled 1D positions span the anchor's sequence: the factor is ``H0 * W0 / (H * W)``.
        """
        if self.kind == '2d':
            return grid_positions(grid, anchor, self.scale, device, dtype)
        return self.place(grid_positions(grid, device=device, dtype=dtype), grid, anchor)

    def place(self, positions: Tensor, grid: Sequence[int], anchor: Optional[Sequence[float]] = None) -> Tensor:
        """Scales any positions ``(x, y)`` on ``grid``, whole or fractional, as :meth:`positions` scales the tokens'.

        Args:
            positions: ``(N, 2)``, in steps of the grid.
            grid: Token grid (H, W).
            anchor: Token grid that the weights were trained on.

        Returns:
            Tensor: ``(N, 2)``; for 1D RoPE the row-major sequence position ``y * W + x``, ``(N, 1)``.
        """
        if self.kind == '2d':
            scale_x, scale_y = axis_scales(grid, anchor, self.scale)
            return torch.stack((positions[:, 0] * scale_x, positions[:, 1] * scale_y), dim=-1)
        scaled = self.scale != 'none' and anchor is not None
        factor = anchor[0] * anchor[1] / (grid[0] * grid[1]) if scaled else 1.0
        return (positions[:, 1:] * grid[1] + positions[:, :1]) * factor

    def frequencies(self, device: Optional[torch.device] = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """theta, fp32 or fp64: ``(1 | h, K)`` with K = rotated channels / 4 (2D) or / 2 (1D)."""
        step = 4 if self.kind == '2d' else 2
        heads = 1 if self.share_heads else self.num_heads
        total = heads * self.rotary_dim
        exponent = torch.arange(total // step, device=device, dtype=at_least_fp32(dtype)) * (-step / total)
        return torch.exp(exponent * math.log(self.base * self.ntk_alpha)).view(heads, -1)

    def angles(self, positions: Tensor) -> Tensor:
        """Angles, fp32 or fp64 as the positions: ``([B,] N, axes)`` to ``([B,] N, 1 | h, P)``."""
        positions = positions.to(at_least_fp32(positions.dtype))
        freqs = self.frequencies(positions.device, positions.dtype)  # [1 | h, K]
        # a broadcast product: TF32 or bf16 matmuls would corrupt the angles
        turns = positions[..., None, None, :] * freqs[..., None]  # [..., N, 1 | h, K, axes]
        return turns.flatten(-2)  # [..., N, 1 | h, P]

    def forward(self, positions: Tensor) -> RotaryTable:
        """Table of the tokens at ``positions``, ``([B,] N, 2)`` (2D) or ``([B,] N, 1)`` (1D)."""
        axes = 2 if self.kind == '2d' else 1
        if positions.shape[-1] != axes:
            raise ValueError(
                f'{self.kind.upper()} RoPE takes positions of {axes} coordinates, got {positions.shape[-1]}'
            )
        angles = self.angles(positions)
        return RotaryTable(angles.cos(), angles.sin())

    def extra_repr(self) -> str:
        return (
            f'{self.head_dim}, kind={self.kind!r}, rotary_dim={self.rotary_dim}, base={self.base:g}, '
            f'share_heads={self.share_heads}, ntk_alpha={self.ntk_alpha:g}, scale={self.scale!r}'
        )


def gather_table(table: RotaryTable, index: Tensor) -> RotaryTable:
    """Rows of a table for each sample of a masked batch.

    Args:
        table: Table of the full grid, ``(N, 1 | h, P)``.
        index: Kept tokens of each sample, ``(B, N_keep)``, int64.

    Returns:
        RotaryTable: ``(B, N_keep, 1 | h, P)``.
    """
    return RotaryTable(table.cos[index], table.sin[index])


def _as_complex(x: Tensor) -> Tensor:
    """Channel pairs (2m, 2m+1) as complex numbers: ``(..., 2P)`` to ``(..., P)``, a view where the strides allow it."""
    if x.stride(-1) != 1 or x.storage_offset() % 2 or any(stride % 2 for stride in x.stride()[:-1]):
        x = x.clone(memory_format=torch.contiguous_format)
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def _rotate_into(out: Tensor, x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Writes the rotation of ``x`` into ``out``, both ``(B, N, h, d)``, as a complex product: one vectorised pass."""
    rotated = 2 * cos.shape[-1]
    dtype = torch.promote_types(x.dtype, cos.dtype)
    turn = torch.complex(cos.to(dtype), sin.to(dtype))  # [[B,] N, 1 | h, P]
    if turn.ndim < x.ndim and len(x) > 1:  # long runs of memory pay for the copy when samples share it
        turn = turn.expand(-1, x.shape[2], -1).contiguous()
    pairs = _as_complex(x[..., :rotated].to(dtype))
    if out.dtype == dtype:
        torch.mul(pairs, turn, out=torch.view_as_complex(out[..., :rotated].unflatten(-1, (-1, 2))))
    else:
        out[..., :rotated] = torch.view_as_real(pairs * turn).flatten(-2)
    if rotated < x.shape[-1]:
        out[..., rotated:] = x[..., rotated:]


class _Rotate(torch.autograd.Function):
    """Rotation that keeps the tables only; autograd's own graph of it keeps the activations too."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        _rotate_into(out, x, cos, sin)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        cos, sin = ctx.saved_tensors
        return _Rotate.apply(grad, cos, -sin), None, None


class _RotateQKV(torch.autograd.Function):
    """Packed qkv ``(B, N, 3, h, d)`` to rotated q, rotated k, and v; the gradient is assembled in one buffer."""

    @staticmethod
    def forward(ctx, qkv: Tensor, cos: Tensor, sin: Tensor):
        ctx.save_for_backward(cos, sin)
        heads = qkv.shape[3]
        qk = qkv[:, :, :2].flatten(2, 3)  # [B, N, 2h, d]
        out = torch.empty(qk.shape, dtype=qk.dtype, device=qk.device)
        if cos.shape[-2] > 1:
            cos, sin = (torch.cat((table, table), dim=-2) for table in (cos, sin))
        _rotate_into(out, qk, cos, sin)
        return out[:, :, :heads], out[:, :, heads:], qkv[:, :, 2]

    @staticmethod
    def backward(ctx, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor):
        cos, sin = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative was asked for
            rotated = (_Rotate.apply(grad, cos, -sin) for grad in (grad_q, grad_k))
            return torch.stack((*rotated, grad_v), dim=2), None, None
        b, n, h, d = grad_v.shape
        grad = torch.empty(b, n, 3, h, d, dtype=grad_v.dtype, device=grad_v.device)
        _rotate_into(grad[:, :, 0], grad_q, cos, -sin)
        _rotate_into(grad[:, :, 1], grad_k, cos, -sin)
        grad[:, :, 2] = grad_v
        return grad, None, None


def _use_functions(x: Tensor, table: RotaryTable) -> bool:
    # The plain formula is for compilers, which fuse it better, for tables that are learned themselves, and for odd head
    # dims, whose pairs are no complex numbers in memory.
    plain = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return x.shape[-1] % 2 == 0 and not table.cos.requires_grad and not plain


def apply_rotary(x: Tensor, table: RotaryTable) -> Tensor:
    """Rotates the channel pairs (2m, 2m+1) of ``x`` by the angles: (a, b) to (a cos - b sin, a sin + b cos).

    Args:
        x: Queries or keys, ``(B, N, h, d)``.
        table: Table of the same N tokens; channels past its 2P are left as they are.

    Returns:
        Tensor: Shape and dtype of ``x``. The rotation itself runs in fp32, in fp64 for ``x`` in fp64.
    """
    if _use_functions(x, table):
        return _Rotate.apply(x, table.cos, table.sin)
    rotated = 2 * table.cos.shape[-1]
    dtype = torch.promote_types(x.dtype, table.cos.dtype)
    even, odd = x[..., :rotated].to(dtype).unflatten(-1, (-1, 2)).unbind(-1)  # [B, N, h, P] each
    turned = torch.stack((even * table.cos - odd * table.sin, even * table.sin + odd * table.cos), dim=-1)
    turned = turned.flatten(-2).to(x.dtype)
    return turned if rotated == x.shape[-1] else torch.cat((turned, x[..., rotated:]), dim=-1)


def rotate_qkv(qkv: Tensor, table: RotaryTable) -> Tuple[Tensor, Tensor, Tensor]:
    """Rotates q and k of a packed projection.

    Args:
        qkv: ``(B, N, 3, h, d)``.
        table: Table of the N tokens.

    Returns:
        tuple: q, k, v, each ``(B, N, h, d)`` in qkv's dtype.
    """
    if _use_functions(qkv, table):
        return _RotateQKV.apply(qkv, table.cos, table.sin)
    q, k, v = qkv.unbind(2)
    return apply_rotary(q, table), apply_rotary(k, table), v


def to_2tuple(value: Union[int, float, Sequence]) -> Tuple:
    """``n`` to ``(n, n)``; a pair stays a pair."""
    if isinstance(value, (int, float)):
        return (value, value)
    if len(value) != 2:
        raise ValueError(f'expected one number or a (height, width) pair, got {value!r}')
    return tuple(value)
