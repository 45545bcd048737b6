"""Attention of the pyramid models (section 3.2): local inside windows, global over sub-sampled keys.

Legend: B batch, N = H x W query tokens, M key tokens, h heads, d head dim, C = h * d channels, sr sub-sampling ratio.
LSA is :class:`WindowAttention`; here are GSA and the positions of its keys.
"""

from typing import NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from .attention import attend, check_backend
from .embed import PatchProjection
from .layer_scale import scaled_linear
from .norm import build_norm
from .rotary import RotaryEmbedding, RotaryTable, apply_rotary, at_least_fp32

KEY_POSITIONS = ('mean', 'released')
NTK_KEYS = ('shared', 'released')


class SubsampledContext(NamedTuple):
    """What sub-sampled attention needs besides the tokens; made once per grid by :class:`GSAPositionCalibration`.

    Attributes:
        query (RotaryTable): Table of the H * W queries.
        key (RotaryTable): Table of the M sub-sampled keys.
        grid (tuple): Token grid (H, W) of the queries.
    """

    query: RotaryTable
    key: RotaryTable
    grid: Tuple[int, int]


def cell_centres(
    length: int, sr_ratio: int, device: Optional[torch.device] = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Mean position of each run of ``sr_ratio`` positions out of 0 ... length - 1; the last run may be shorter.

    Returns:
        Tensor: ``(ceil(length / sr_ratio),)``, fp32 or fp64.
    """
    first = torch.arange(0, length, sr_ratio, device=device, dtype=at_least_fp32(dtype))
    last = (first + (sr_ratio - 1)).clamp(max=length - 1)
    return (first + last) / 2


@MODELS.register_module()
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
        key_position: ``'mean'`` as above. ``'released'`` is what the published weights were trained with (the release
            counts keys along the queries' full width W and offsets them by ``1 - 1 / sr``): the key of flat index n
            stands at ``x = (1 - 1 / sr) + sr * (n mod W)``, ``y = (1 - 1 / sr) + sr * (n div W)``.
        ntk_keys: With ``ntk_alpha``: ``'shared'`` rotates keys with the same frequencies as queries, ``'released'``
            leaves theirs at the plain base.
        **rope_cfg: As :class:`RotaryEmbedding`. ``scale='released'`` scales by 14 / H whatever the anchor.

    Raises:
        ValueError: For an unknown option, a ratio below 1, and for ``key_position='released'`` with 1D RoPE.

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

    #: the release scales by 14 / H in every stage, whatever the stage's grid was in training
    RELEASED_ANCHOR = (14, 14)

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
        if int(sr_ratio) != sr_ratio or sr_ratio < 1:
            raise ValueError(f'sr_ratio must be a positive whole number, got {sr_ratio}')
        if key_position not in KEY_POSITIONS:
            raise ValueError(f'unknown key_position {key_position!r}: choose one of {KEY_POSITIONS}')
        if ntk_keys not in NTK_KEYS:
            raise ValueError(f'unknown ntk_keys {ntk_keys!r}: choose one of {NTK_KEYS}')
        self.sr_ratio = int(sr_ratio)
        self.key_position = key_position
        self.rotary = RotaryEmbedding(head_dim, **rope_cfg)
        if ntk_keys == 'released':
            rope_cfg = dict(rope_cfg, ntk_alpha=1.0)
        self.key_rotary = RotaryEmbedding(head_dim, **rope_cfg)
        if key_position == 'released' and self.rotary.kind == '1d':
            raise ValueError("key_position='released' is a position of the 2D grid: use 'mean' with 1D RoPE")
        self.anchor = self.RELEASED_ANCHOR if self.rotary.scale == 'released' else anchor

    def key_grid(self, grid: Sequence[int]) -> Tuple[int, int]:
        """Grid of the keys of a query grid (H, W): ``(ceil(H / sr), ceil(W / sr))``."""
        return tuple(-(-side // self.sr_ratio) for side in grid)

    def query_positions(
        self,
        grid: Sequence[int],
        device: Optional[torch.device] = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Scaled positions of the queries of ``grid`` (H, W): ``(H * W, 2)``, or ``(H * W, 1)`` for 1D RoPE."""
        return self.rotary.positions(grid, self.anchor, device, dtype)

    def key_positions(
        self,
        grid: Sequence[int],
        device: Optional[torch.device] = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Scaled positions of the keys of the query grid ``grid`` (H, W): ``(M, 2)``, or ``(M, 1)`` for 1D RoPE."""
        if self.sr_ratio == 1:
            return self.query_positions(grid, device, dtype)
        rows, cols = self.key_grid(grid)
        if self.key_position == 'released':
            index = torch.arange(rows * cols, device=device)
            cells = torch.stack((index % grid[1], index // grid[1]), dim=-1).to(at_least_fp32(dtype))  # [M, 2]
            positions = cells * self.sr_ratio + (1 - 1 / self.sr_ratio)
        else:
            x = cell_centres(grid[1], self.sr_ratio, device, dtype).expand(rows, cols)
            y = cell_centres(grid[0], self.sr_ratio, device, dtype)[:, None].expand(rows, cols)
            positions = torch.stack((x, y), dim=-1).reshape(rows * cols, 2)
        return self.rotary.place(positions, grid, self.anchor)

    def forward(
        self,
        grid: Sequence[int],
        device: Optional[torch.device] = None,
        dtype: torch.dtype = torch.float32,
    ) -> SubsampledContext:
        """Tables for the query grid ``grid`` (H, W), made once for all blocks of a stage.

        Args:
            grid: Token grid of the queries.
            device: Device of the tokens.
            dtype: Dtype of the tokens; tables are never kept below fp32.
        """
        query = self.rotary(self.query_positions(grid, device, dtype))
        if self.sr_ratio == 1 and self.key_rotary.ntk_alpha == self.rotary.ntk_alpha:
            return SubsampledContext(query, query, tuple(grid))
        return SubsampledContext(query, self.key_rotary(self.key_positions(grid, device, dtype)), tuple(grid))

    def extra_repr(self) -> str:
        return f'sr_ratio={self.sr_ratio}, anchor={self.anchor}, key_position={self.key_position!r}'


class GlobalSubsampledAttention(nn.Module):
    """GSA (eq. 2): every token attends to keys that summarise the map, with calibrated rotary positions.

    Keys and values come from a convolution of kernel and stride ``sr_ratio`` and a norm (neither for ratio 1). Sides
    that are no multiple of the ratio are padded with zeros, which add nothing to the convolution's sums; no attention
    ever sees a token that is padding alone.

    Args:
        embed_dims: Channels C.
        num_heads: Heads h.
        sr_ratio: Sub-sampling ratio.
        norm_cfg: Norm of the sub-sampled map.
        qkv_bias: Biases of the q and of the packed k, v projection (rows k, v; each head-major).
        attn_drop: Dropout of the attention weights.
        proj_drop: Dropout of the output.
        backend: See :func:`attend`.

    Raises:
        ValueError: If ``num_heads`` does not divide ``embed_dims``, or for an unknown backend.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        sr_ratio: int = 1,
        *,
        norm_cfg: Optional[dict] = None,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        backend: str = 'auto',
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'num_heads {num_heads} does not divide embed_dims {embed_dims}')
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.backend = check_backend(backend)
        self.q = nn.Linear(embed_dims, embed_dims, bias=qkv_bias)
        self.kv = nn.Linear(embed_dims, 2 * embed_dims, bias=qkv_bias)
        self.sr = PatchProjection(embed_dims, embed_dims, sr_ratio, sr_ratio) if sr_ratio > 1 else None
        self.norm = build_norm(norm_cfg or dict(type='LN', eps=1e-5), embed_dims) if sr_ratio > 1 else None
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.attn_drop = attn_drop
        self.proj_drop = nn.Dropout(proj_drop) if proj_drop > 0 else nn.Identity()

    def subsample(self, x: Tensor, grid: Sequence[int]) -> Tensor:
        """Row-major tokens ``(B, H * W, C)`` to one token per cell, ``(B, M, C)``."""
        if self.sr is None:
            return x
        maps = x.transpose(1, 2).unflatten(2, tuple(grid))  # [B, C, H, W]
        pad_h, pad_w = (-(-side // self.sr_ratio) * self.sr_ratio - side for side in grid)
        if pad_h or pad_w:
            maps = F.pad(maps, (0, pad_w, 0, pad_h))
        return self.norm(self.sr(maps))  # [B, M, C]

    def forward(self, x: Tensor, context: SubsampledContext, *, scale: Optional[Tensor] = None) -> Tensor:
        """Row-major tokens of the context's grid, ``(B, N, C)``, to the same shape, times ``scale`` ``(C,)``."""
        q = apply_rotary(self.q(x).unflatten(-1, (self.num_heads, -1)), context.query)  # [B, N, h, d]
        kv = self.kv(self.subsample(x, context.grid))
        k, v = kv.unflatten(-1, (2, self.num_heads, -1)).unbind(2)  # [B, M, h, d] each
        q, k, v = (t.transpose(1, 2) for t in (q, apply_rotary(k, context.key), v))
        dropout = self.attn_drop if self.training else 0.0
        x = attend(q, k, v, dropout=dropout, backend=self.backend)  # [B, h, N, d]
        return self.proj_drop(scaled_linear(self.proj, x.transpose(1, 2).flatten(2), scale))
