"""GSA, global sub-sampled attention: every token attends to a sub-sampled map (section 3.2, eq. 2).

Legend: B batch, N = H x W query tokens, M key tokens, h heads, d head dim, C = h * d channels, sr sub-sampling ratio.
Where the keys stand is in :mod:`.position_calibration`.
"""

from typing import Optional, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .attention import AttentionContext, attend
from .attention_backends import check_backend
from .embed import PatchProjection
from .norm import build_norm
from .options import ceil_div, check_flags, check_heads, checked_rate, checked_whole, size_agnostic
from .rotary import apply_rotary


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

    #: as :class:`RotaryAttention` has it
    pairs_in_halves = False

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
        check_heads(embed_dims, num_heads)
        check_flags(qkv_bias=qkv_bias)
        self.num_heads = num_heads
        self.sr_ratio = checked_whole('sr_ratio', sr_ratio)
        self.backend = check_backend(backend)
        self.q = nn.Linear(embed_dims, embed_dims, bias=qkv_bias)
        self.kv = nn.Linear(embed_dims, 2 * embed_dims, bias=qkv_bias)
        self.sr = PatchProjection(embed_dims, embed_dims, sr_ratio, sr_ratio) if sr_ratio > 1 else None
        self.norm = build_norm(norm_cfg or dict(type='LN', eps=1e-5), embed_dims) if sr_ratio > 1 else None
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.attn_drop = checked_rate('attn_drop', attn_drop)
        self.proj_drop = nn.Dropout(checked_rate('proj_drop', proj_drop)) if proj_drop > 0 else nn.Identity()

    def subsample(self, x: Tensor, grid: Sequence[int]) -> Tensor:
        """Row-major tokens ``(B, H * W, C)`` to one token per cell, ``(B, M, C)``."""
        if self.sr is None:
            return x
        maps = x.transpose(1, 2).view(x.shape[0], x.shape[2], *grid)  # [B, C, H, W]
        pad_h, pad_w = (ceil_div(side, self.sr_ratio) * self.sr_ratio - side for side in grid)
        if size_agnostic() or pad_h or pad_w:
            maps = F.pad(maps, (0, pad_w, 0, pad_h))
        return self.norm(self.sr(maps))  # [B, M, C]

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """Row-major tokens of the context's grid, ``(B, N, C)``, to the same shape."""
        mask = None
        if context.valid is not None:
            mask = context.valid.coarser((self.sr_ratio, self.sr_ratio)).key_mask()
        q = self.q(x).unflatten(-1, (self.num_heads, -1))  # [B, N, h, d]
        if context.valid is not None and self.sr is not None:
            x = context.valid.hide(x)  # adds nothing to the convolution's sums
        kv = self.kv(self.subsample(x, context.grid))
        k, v = kv.unflatten(-1, (2, self.num_heads, -1)).unbind(2)  # [B, M, h, d] each
        q = apply_rotary(q, context.query, self.pairs_in_halves)
        k = apply_rotary(k, context.key, self.pairs_in_halves)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        dropout = self.attn_drop if self.training else 0.0
        x = attend(q, k, v, mask=mask, dropout=dropout, backend=self.backend)  # [B, h, N, d]
        return self.proj_drop(self.proj(x.transpose(1, 2).flatten(2)))
