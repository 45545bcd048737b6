"""A literal windowed backbone of ViTDet: complex RoPE built inside every layer, softmax written out, nothing fused.

The other side of the benchmark at 1024 x 1024, and of a test that both compute the same.
"""

from typing import Sequence

import torch.nn.functional as F
from literal import LiteralAttention
from literal_pyramid import LiteralLSA
from torch import Tensor, nn


class LiteralViTDetBlock(nn.Module):
    """Pre-norm block, windowed or global."""

    def __init__(self, dims: int, heads: int, hidden: int, anchor: int, window: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dims, eps=1e-6), nn.LayerNorm(dims, eps=1e-6)
        self.attn = LiteralLSA(dims, heads, window) if window else LiteralAttention(dims, heads, anchor, False)
        self.gate, self.up = nn.Linear(dims, hidden, bias=False), nn.Linear(dims, hidden, bias=False)
        self.down = nn.Linear(hidden, dims, bias=False)

    def forward(self, x: Tensor, grid: Sequence[int]) -> Tensor:
        x = x + self.attn(self.norm1(x), grid)
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class LiteralViTDet(nn.Module):
    """Images to the last map ``(B, C, H, W)``; ``windowed`` lists the blocks in windows, the others scale positions."""

    def __init__(
        self,
        dims: int,
        layers: int,
        heads: int,
        hidden: int,
        windowed: Sequence[int],
        window: int = 14,
        patch: int = 16,
        anchor: int = 14,
    ) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dims, patch, stride=patch)
        self.blocks = nn.ModuleList(
            LiteralViTDetBlock(dims, heads, hidden, anchor, window if i in windowed else 0) for i in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)
        grid = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x, grid)
        return x.transpose(1, 2).unflatten(2, grid)
