"""AS2DRoPE (section 3.3, eq. 3 and 4): positions of any grid, scaled onto the grid of the training, and their angles.

Legend: B batch, N tokens, h heads, d head dim, P rotation planes (= rotated channels / 2), H x W token grid.
Positions are ``(x, y)`` = (column, row). Everything here is real arithmetic, in fp32 at least, and free of state: a
table is a pure function of the positions given, so no grid size, device or mode can leave a stale one behind.
"""

import math
from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..errors import OptionError
from .directions import DIRECTIONS, GOLDEN_RANGE, axial_vectors, golden_vectors, random_rotations, spiral_vectors
from .options import at_least_fp32, check_flags, checked_choice, checked_positive, checked_whole, side_ratio
from .rotary import RotaryTable
from .valid_grid import ValidGrid, own_sides

SCALES = ('per_axis', 'height', 'none')
KINDS = ('2d', '1d')
#: the one released plain model that scales has the height's factor for both axes
SCALE_ALIASES = {'released': 'height'}


def check_anchor(anchor: Optional[Sequence[float]]) -> Optional[Sequence[float]]:
    """The anchor grid, or an OptionError unless it is None or two numbers above 0."""
    if anchor is not None:
        if not isinstance(anchor, (list, tuple)) or len(anchor) != 2:
            raise OptionError(f'the anchor grid must be (H, W), got {anchor!r}')
        for side in anchor:
            checked_positive('a side of the anchor grid', side)
    return anchor


def axis_scales(grid: Sequence[int], anchor: Optional[Sequence[float]], scale: str = 'per_axis') -> Tuple[float, float]:
    """Factors of AS2DRoPE (eq. 4) that map positions of ``grid`` onto the anchor grid.

    Args:
        grid: Token grid ``(H, W)`` of the input. Tensors ``(B, 1)`` as sides give each image its own factors.
        anchor: Token grid ``(H0, W0)`` that the weights were trained on; ``None`` leaves positions as they are.
        scale: ``'per_axis'`` scales y by H0/H and x by W0/W; ``'height'`` (what the released plain model that
            scales does; ``'released'`` is accepted for it) scales both by H0/H; ``'none'`` is unscaled 2D RoPE.

    Returns:
        ``(scale_x, scale_y)``.
    """
    scale = checked_choice('rotary scale', scale, SCALES, SCALE_ALIASES)
    if scale == 'none' or anchor is None:
        return 1.0, 1.0
    scale_y = side_ratio(anchor[0], grid[0])
    return (side_ratio(anchor[1], grid[1]) if scale == 'per_axis' else scale_y), scale_y


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


def checked_range(name: str, bounds: Optional[Sequence[float]]) -> Optional[Tuple[float, float]]:
    """The bounds, or an OptionError unless they are None or two numbers above 0 that ascend."""
    if bounds is None:
        return None
    if not isinstance(bounds, (list, tuple)) or len(bounds) != 2:
        raise OptionError(f'{name} must be (smallest, largest), got {bounds!r}')
    low, high = (checked_positive(f'a bound of {name}', bound) for bound in bounds)
    if low >= high:
        raise OptionError(f'{name} must ascend, got {bounds!r}')
    return float(low), float(high)


class AS2DRoPE(nn.Module):
    """Auto-scaled 2D rotary embedding: positions to the rotary table of section 3.3 (eq. 3 and 4).

    Its options are the variants that the paper compares it with: other axes (``kind``), frequencies and scaling. Where
    those are used on purpose, the class goes by its general name, ``RotaryEmbedding``. Holds no tensor unless
    directions are learned.

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
        directions: ``'axial'`` is the paper's. The others give planes and heads directions of their own and need
            ``num_heads`` and 2D positions: ``'golden'`` spreads them by the golden ratio
            (:func:`~.directions.golden_vectors`), ``'spiral'`` turns the axes by ``num_directions`` angles, the same
            in all heads (:func:`~.directions.spiral_vectors`), ``'mixed'`` learns them from axial ones that each head
            turns at random (:func:`~.directions.random_rotations`), as the parameter ``vectors`` (h, P, 2).
        num_directions: Of ``'spiral'``: angles within a right one; a divisor of a quarter of the rotated channels, and
            as many times fewer magnitudes.
        freq_range: Of ``'golden'``: smallest and largest magnitude, radians per step of the anchor grid.
        yarn_range: Of axial directions: (low, high) in radians per token. On grids other than the anchor, planes of
            theta up to low turn by scaled positions as always, those from high on by unscaled ones, and between them by
            the mean that grows with theta, on each axis with that axis' own scale: NTK-by-parts of Peng et al., "YaRN",
            2023 (arXiv 2309.00071), section 3.2, with its alpha and beta turns over a length of L tokens as
            ``2 * pi * alpha / L`` and ``2 * pi * beta / L``. (Its 1 and 32, from text, leave nearly all planes of a
            grid of 14 scaled.) Its temperature is not part of this. Positions are then ``(N, 4)``, scaled and unscaled.

    Raises:
        ValueError: If the number of rotated channels is no positive multiple of 4 (2D) or 2 (1D).
        OptionError: For unknown directions, and for options that do not go with them.

    Examples:
        >>> rotary = AS2DRoPE(64)
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
        directions: str = 'axial',
        freq_range: Optional[Sequence[float]] = None,
        yarn_range: Optional[Sequence[float]] = None,
        num_directions: int = 4,
    ) -> None:
        super().__init__()
        kind = checked_choice('rotary kind', kind, KINDS)
        checked_whole('head dim', head_dim)
        checked_positive(
            'rotary base x ntk_alpha', checked_positive('rotary base', base) * checked_positive('ntk_alpha', ntk_alpha)
        )
        checked_positive('rotary ratio', ratio)
        check_flags(share_heads=share_heads)
        divisor = 4 if kind == '2d' else 2
        rotated = round(ratio * head_dim, 6)  # 0.29 * 100 is no whole number in floating point
        if ratio > 1 or rotated % divisor or not rotated:
            raise ValueError(
                f'{kind.upper()} RoPE rotates {ratio:g} x head dim {head_dim} = {rotated:g} channels, which must be a '
                f'positive multiple of {divisor}: change embed_dims, num_heads or the rotary ratio'
            )
        if not share_heads and not num_heads:
            raise ValueError('share_heads=False needs num_heads')
        if scale is None:
            scale = 'per_axis' if kind == '2d' and ntk_alpha == 1 else 'none'
        self.head_dim = head_dim
        self.num_heads = num_heads
        self.kind = kind
        self.base = float(base)
        self.share_heads = share_heads
        self.ntk_alpha = float(ntk_alpha)
        self.scale = checked_choice('rotary scale', scale, SCALES, SCALE_ALIASES)
        self.rotary_dim = int(rotated)
        self.directions = checked_choice('rotary directions', directions, DIRECTIONS)
        if freq_range is not None and directions != 'golden':
            raise OptionError(f"freq_range is an option of directions='golden', not of {directions!r}")
        own_range = GOLDEN_RANGE if directions == 'golden' and freq_range is None else freq_range
        self.freq_range = checked_range('freq_range', own_range)
        self.yarn_range = checked_range('yarn_range', yarn_range)
        if yarn_range and (kind != '2d' or directions != 'axial' or self.scale == 'none'):
            raise OptionError('yarn_range is an option of 2D RoPE with axial directions and scaled positions')
        if directions != 'axial':
            if kind != '2d' or not share_heads or not num_heads:
                raise OptionError(
                    f'directions={directions!r} are those of 2D RoPE and differ from head to head: give num_heads, and '
                    f"leave kind='1d' and share_heads=False out"
                )
            if directions == 'golden' and (base != 10000 or ntk_alpha != 1):
                raise OptionError("directions='golden' take freq_range in the place of base and ntk_alpha")
        self.num_directions = checked_whole('num_directions', num_directions)
        if num_directions != 4 and directions != 'spiral':
            raise OptionError(f"num_directions is an option of directions='spiral', not of {directions!r}")
        if directions == 'spiral' and self.rotary_dim // 4 % num_directions:
            raise OptionError(
                f'num_directions={num_directions} must divide {self.rotary_dim // 4}, a quarter of the rotated channels'
            )
        self.vectors = nn.Parameter(random_rotations(self.frequencies(), num_heads)) if self.is_learned else None

    @property
    def is_learned(self) -> bool:
        """Whether tables depend on a parameter, so that each layer has an embedding of its own."""
        return self.directions == 'mixed'

    @property
    def options(self) -> tuple:
        """All that a table depends on besides the positions and learned directions."""
        heads = None if self.share_heads and self.directions == 'axial' else self.num_heads
        frequencies = self.base, self.ntk_alpha, self.directions, self.freq_range, self.yarn_range, self.num_directions
        return self.head_dim, self.rotary_dim, heads, self.kind, *frequencies, self.scale

    def positions(
        self,
        grid: Sequence[int],
        anchor: Optional[Sequence[float]] = None,
        device: Optional[torch.device] = None,
        dtype: torch.dtype = torch.float32,
        valid: Optional[ValidGrid] = None,
    ) -> Tensor:
        """Positions of a whole token grid: ``(H * W, 2)``, or ``(H * W, 1)`` for 1D RoPE; fp32 or fp64.

        Scaled 1D positions span the anchor's sequence: the factor is ``H0 * W0 / (H * W)``. With ``valid`` every image
        of the batch has the positions of its own grid, ``(B, H * W, ...)``.
        """
        if self.kind == '2d' and valid is None and not self.yarn_range:
            return grid_positions(grid, anchor, self.scale, device, dtype)
        positions = grid_positions(grid, device=device, dtype=dtype)
        if valid is not None:
            positions = positions.expand(len(valid.sizes), -1, -1)
        return self.place(positions, own_sides(grid, valid, positions.dtype), anchor)

    def place(self, positions: Tensor, grid: Sequence[int], anchor: Optional[Sequence[float]] = None) -> Tensor:
        """Scales any positions ``(x, y)`` on ``grid``, whole or fractional, as :meth:`positions` scales the tokens'.

        Args:
            positions: ``([B,] N, 2)``, in steps of the grid.
            grid: Token grid (H, W), or each image's own as two tensors ``(B, 1)``.
            anchor: Token grid that the weights were trained on.

        Returns:
            Tensor: ``([B,] N, 2)``; for 1D RoPE the row-major sequence position ``y * W + x``, ``([B,] N, 1)``.
        """
        x, y = positions.unbind(-1)
        if self.kind == '2d':
            scale_x, scale_y = axis_scales(grid, anchor, self.scale)
            scaled = torch.stack((x * scale_x, y * scale_y), dim=-1)
            return torch.cat((scaled, positions), dim=-1) if self.yarn_range else scaled
        scaled = self.scale != 'none' and anchor is not None
        factor = side_ratio(anchor[0] * anchor[1], grid[0] * grid[1]) if scaled else 1.0
        return ((y * grid[1] + x) * factor)[..., None]

    def frequencies(self, device: Optional[torch.device] = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """theta of axial directions, fp32 or fp64: ``(1 | h, K)`` with K = rotated channels / 4 (2D) or / 2 (1D)."""
        step = 4 if self.kind == '2d' else 2
        heads = 1 if self.share_heads else self.num_heads
        total = heads * self.rotary_dim
        exponent = torch.arange(total // step, device=device, dtype=at_least_fp32(dtype)) * (-step / total)
        return torch.exp(exponent * math.log(self.base * self.ntk_alpha)).view(heads, -1)

    def frequency_vectors(self, device: Optional[torch.device] = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """f of 2D RoPE, fp32 or fp64: ``(1 | h, P, 2)``; a plane turns by the product of f with the position (x, y)."""
        dtype = at_least_fp32(dtype)
        if self.directions == 'axial':
            return axial_vectors(self.frequencies(device, dtype))
        if self.directions == 'golden':
            return golden_vectors(self.num_heads, self.rotary_dim // 2, self.freq_range, device).to(dtype)
        if self.directions == 'spiral':
            return spiral_vectors(self.frequencies(device, dtype)[:, :: self.num_directions], self.num_directions)
        if self.vectors is None:
            raise OptionError('learned directions belong to the layers: this embedding places tokens for all of them')
        return self.vectors.to(device, dtype)

    def angles(self, positions: Tensor) -> Tensor:
        """Angles, fp32 or fp64 as the positions: ``([B,] N, axes)`` to ``([B,] N, 1 | h, P)``."""
        positions = positions.to(at_least_fp32(positions.dtype))
        if self.directions != 'axial':
            along_x, along_y = self.frequency_vectors(positions.device, positions.dtype).unbind(-1)  # [h, P] each
            x, y = positions[..., None, None].unbind(-3)  # [..., N, 1, 1] each
            return x * along_x + y * along_y  # [..., N, h, P]
        # half of an axial vector's products are with 0: they are left out
        freqs = self.frequencies(positions.device, positions.dtype)  # [1 | h, K]
        # a broadcast product: TF32 or bf16 matmuls would corrupt the angles
        turns = positions[..., None, None, :] * freqs[..., None]  # [..., N, 1 | h, K, axes]
        if self.yarn_range:
            low, high = self.yarn_range
            unscaled = ((freqs - low) / (high - low)).clamp(0, 1)[..., None]  # [1 | h, K, 1], what each plane has of it
            turns = torch.lerp(turns[..., :2], turns[..., 2:], unscaled)
        return turns.flatten(-2)  # [..., N, 1 | h, P]

    def forward(self, positions: Tensor) -> RotaryTable:
        """Table of the tokens at ``positions``, ``([B,] N, 2)`` (2D) or ``([B,] N, 1)`` (1D)."""
        axes = (4 if self.yarn_range else 2) if self.kind == '2d' else 1
        if positions.shape[-1] != axes:
            raise ValueError(
                f'{self.kind.upper()} RoPE takes positions of {axes} coordinates, got {positions.shape[-1]}'
            )
        angles = self.angles(positions)
        return RotaryTable(angles.cos(), angles.sin())

    def extra_repr(self) -> str:
        return (
            f'{self.head_dim}, kind={self.kind!r}, rotary_dim={self.rotary_dim}, base={self.base:g}, '
            f'share_heads={self.share_heads}, ntk_alpha={self.ntk_alpha:g}, scale={self.scale!r}, '
            f'directions={self.directions!r}'
        )


#: the general name, for 1D and unscaled embeddings
RotaryEmbedding = AS2DRoPE
