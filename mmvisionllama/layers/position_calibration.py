"""Position calibration of GSA: where the keys stand that summarise a cell of the map (section 3.3, Figure 5).

Legend: N = H x W query tokens, M key tokens, h heads, d head dim, sr sub-sampling ratio.
"""

from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..errors import OptionError
from .as2drope import AS2DRoPE, check_anchor
from .attention import AttentionContext
from .context_cache import cached_context, is_untouched, may_be_shared
from .options import at_least_fp32, ceil_div, checked_choice, checked_whole, made
from .valid_grid import ValidGrid, own_sides

KEY_POSITIONS = ('mean', 'flat_index')
NTK_KEYS = ('shared', 'plain_base')


def cell_centres(
    length: int,
    sr_ratio: int,
    device: Optional[torch.device] = None,
    dtype: torch.dtype = torch.float32,
    own: Optional[Tensor] = None,
) -> Tensor:
    """Mean position of each run of ``sr_ratio`` positions out of 0 ... length - 1; the last run may be shorter.

    Args:
        length: Positions of the axis.
        sr_ratio: Length of a run.
        device: Device of the result.
        dtype: Dtype of the tokens.
        own: Positions of each image of a padded batch, ``(B, 1)``: its own last run ends there.

    Returns:
        Tensor: ``([B,] ceil(length / sr_ratio))``, fp32 or fp64.
    """
    first = torch.arange(ceil_div(length, sr_ratio), device=device, dtype=at_least_fp32(dtype)) * sr_ratio
    last = (first + (sr_ratio - 1)).clamp(max=length - 1)
    if own is not None:
        last = torch.minimum(last, own - 1)
    return (first + last) / 2


class GSAPositionCalibration(nn.Module):
    """Rotary tables of sub-sampled attention: each key stands at the mean position of its cell (Figure 5).

    A key that summarises an ``sr x sr`` cell of the query grid gets the mean of the positions in that cell,
    ``sr * n + (sr - 1) / 2`` on each axis for the key in row or column n, and is then scaled like the queries (eq. 4).
    Cells that the map's edge cuts off count their real positions only, so any map size works with any ratio. Holds no
    tensor; works for every attention whose keys are a row-major ``ceil(H / sr) x ceil(W / sr)`` map.

    Args:
        head_dim: Channels of one head, d.
        sr_ratio: Side of a cell; 1 for keys that are the queries' own tokens.
        anchor: Query grid (H0, W0) that the weights were trained on, or None for unscaled positions.
        key_position: ``'mean'`` as above. ``'flat_index'`` is what the released code computes, and its weights were
            presumably trained with (keys counted along the queries' full width W, ``1 - 1 / sr`` off): the key of flat
            index n stands at ``x = (1 - 1 / sr) + sr * (n mod W)``, ``y = (1 - 1 / sr) + sr * (n div W)``.
        ntk_keys: With ``ntk_alpha``: ``'shared'`` rotates keys with the same frequencies as queries, ``'plain_base'``
            leaves theirs at the plain base.
        **rope_cfg: As :class:`AS2DRoPE`. ``'released'`` is accepted for ``key_position='flat_index'``, for
            ``ntk_keys='plain_base'``, and for ``scale='height'`` with the anchor (14, 14).

    Raises:
        ValueError: For an unknown option, a ratio below 1, and for ``key_position='flat_index'`` with 1D RoPE.

    Examples:
        Positions for somebody else's sub-sampled attention, in plain PyTorch:

        >>> import torch
        >>> from torch import nn
        >>> from mmvisionllama.layers import GSAPositionCalibration, apply_rotary
        >>> class PooledAttention(nn.Module):
        ...     def __init__(self, dims, heads, pool):
        ...         super().__init__()
        ...         self.heads, self.pool = heads, nn.AvgPool2d(pool, ceil_mode=True)
        ...         self.q, self.kv = nn.Linear(dims, dims), nn.Linear(dims, 2 * dims)
        ...         self.calibration = GSAPositionCalibration(dims // heads, sr_ratio=pool, anchor=(14, 14))
        ...
        ...     def forward(self, x):  # [B, C, H, W]
        ...         context = self.calibration(x.shape[2:], x.device)
        ...         q = self.q(x.flatten(2).mT).unflatten(-1, (self.heads, -1))  # [B, N, h, d]
        ...         k, v = self.kv(self.pool(x).flatten(2).mT).unflatten(-1, (2, self.heads, -1)).unbind(2)
        ...         q, k = apply_rotary(q, context.query), apply_rotary(k, context.key)
        ...         q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        ...         out = nn.functional.scaled_dot_product_attention(q, k, v)  # [B, h, N, d]
        ...         return out.transpose(2, 3).flatten(1, 2).unflatten(-1, x.shape[2:])  # [B, C, H, W]
        >>> PooledAttention(64, 2, pool=4)(torch.rand(1, 64, 30, 21)).shape
        torch.Size([1, 64, 30, 21])
    """

    def __init__(
        self,
        head_dim: int,
        sr_ratio: int = 1,
        *,
        anchor: Optional[Sequence[float]] = None,
        key_position: str = 'mean',
        ntk_keys: str = 'shared',
        **rope_cfg,
    ) -> None:
        super().__init__()
        self.sr_ratio = checked_whole('sr_ratio', sr_ratio)
        self.key_position = checked_choice('key_position', key_position, KEY_POSITIONS, {'released': 'flat_index'})
        ntk_keys = checked_choice('ntk_keys', ntk_keys, NTK_KEYS, {'released': 'plain_base'})
        self.anchor = check_anchor(anchor)
        if rope_cfg.get('scale') == 'released':
            rope_cfg['scale'], self.anchor = 'height', (14, 14)
        self.rotary = made('rope_cfg', AS2DRoPE, head_dim, **rope_cfg)
        if self.rotary.is_learned:
            raise OptionError('queries and sub-sampled keys share their directions: these cannot be learned')
        if ntk_keys == 'plain_base':
            rope_cfg['ntk_alpha'] = 1.0
        self.key_rotary = AS2DRoPE(head_dim, **rope_cfg)
        if self.key_position == 'flat_index' and self.rotary.kind == '1d':
            raise ValueError("key_position='flat_index' is a position of the 2D grid: use 'mean' with 1D RoPE")

    def key_grid(self, grid: Sequence[int]) -> Tuple[int, int]:
        """Grid of the keys of a query grid (H, W): ``(ceil(H / sr), ceil(W / sr))``."""
        return tuple(ceil_div(side, self.sr_ratio) for side in grid)

    def query_positions(
        self,
        grid: Sequence[int],
        device: Optional[torch.device] = None,
        dtype: torch.dtype = torch.float32,
        valid: Optional[ValidGrid] = None,
    ) -> Tensor:
        """Scaled positions of the queries of ``grid`` (H, W): ``(H * W, 2)``, or ``(H * W, 1)`` for 1D RoPE."""
        return self.rotary.positions(grid, self.anchor, device, dtype, valid)

    def key_positions(
        self,
        grid: Sequence[int],
        device: Optional[torch.device] = None,
        dtype: torch.dtype = torch.float32,
        valid: Optional[ValidGrid] = None,
    ) -> Tensor:
        """Scaled positions of the keys of the query grid ``grid`` (H, W): ``(M, 2)``, or ``(M, 1)`` for 1D RoPE.

        With ``valid`` they are those of each image's own grid, ``(B, M, ...)``.
        """
        if self.sr_ratio == 1:
            return self.query_positions(grid, device, dtype, valid)
        rows, cols = self.key_grid(grid)
        sides = own_sides(grid, valid, at_least_fp32(dtype))
        if self.key_position == 'flat_index':
            index = torch.arange(rows * cols, device=device)
            width = grid[1]
            if valid is not None:  # the index of the same cell among the image's own
                width = valid.sizes[:, 1:]
                index = index // cols * ceil_div(width, self.sr_ratio) + index % cols  # [B, M]
            y = index // width
            # not index % width: the ONNX exporter takes no remainder by a size
            cells = torch.stack((index - y * width, y), dim=-1).to(at_least_fp32(dtype))  # [M, 2]
            positions = cells * self.sr_ratio + (1 - 1 / self.sr_ratio)
        else:
            own_rows, own_cols = (None, None) if valid is None else sides
            x = cell_centres(grid[1], self.sr_ratio, device, dtype, own_cols)[..., None, :]
            y = cell_centres(grid[0], self.sr_ratio, device, dtype, own_rows)[..., :, None]
            positions = torch.stack(torch.broadcast_tensors(x, y), dim=-1).flatten(-3, -2)  # [M, 2]
        return self.rotary.place(positions, sides, self.anchor)

    def forward(
        self,
        grid: Sequence[int],
        device: Optional[torch.device] = None,
        dtype: torch.dtype = torch.float32,
        valid: Optional[ValidGrid] = None,
    ) -> AttentionContext:
        """Tables for the query grid ``grid`` (H, W), made once for all blocks of a stage.

        Args:
            grid: Token grid of the queries.
            device: Device of the tokens.
            dtype: Dtype of the tokens; tables are never kept below fp32.
            valid: Where the images of a padded batch are: each gets the tables of its own grid.
        """
        rotaries = self.rotary, self.key_rotary
        own = valid is None and type(self) is GSAPositionCalibration and may_be_shared(*rotaries) and is_untouched(self)
        if not own:
            return self._context(grid, device, dtype, valid)
        anchor = self.anchor and tuple(self.anchor)
        options = anchor, self.sr_ratio, self.key_position, *(rotary.options for rotary in rotaries)
        key = 'calibrated', options, tuple(grid), at_least_fp32(dtype)
        return cached_context(key, device, lambda: self._context(grid, device, dtype, valid))

    def _context(
        self, grid: Sequence[int], device: Optional[torch.device], dtype: torch.dtype, valid: Optional[ValidGrid]
    ) -> AttentionContext:
        query = self.rotary(self.query_positions(grid, device, dtype, valid))
        key = None
        if self.sr_ratio > 1 or self.key_rotary.ntk_alpha != self.rotary.ntk_alpha:
            key = self.key_rotary(self.key_positions(grid, device, dtype, valid))
        return AttentionContext(query, key, tuple(grid), valid=valid)

    def extra_repr(self) -> str:
        return f'sr_ratio={self.sr_ratio}, anchor={self.anchor}, key_position={self.key_position!r}'
