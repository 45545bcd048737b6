"""A literal pyramid VisionLLaMA: complex RoPE built inside every layer, softmax written out, nothing shared or fused.

The other side of the benchmark at detection size, and of a test that both compute the same.
"""

from typing import Sequence, Tuple

import torch
import torch.nn.functional as F
from literal import rotate
from torch import Tensor, nn

WINDOW = 7


def complex_table(x: Tensor, y: Tensor, head_dim: int) -> Tensor:
    """Complex rotations of the positions (x, y) of N tokens: ``(N, head_dim / 2)``."""
    theta = 10000.0 ** (-torch.arange(0, head_dim, 4, dtype=torch.float32, device=x.device) / head_dim)
    angles = torch.stack((x[:, None] * theta, y[:, None] * theta), dim=-1).flatten(1)
    return torch.polar(torch.ones_like(angles), angles)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, real: Tensor = None) -> Tensor:
    """``(B, N, h, d)`` to ``(B, N, h * d)``; ``real`` ``(B, M)`` is False for keys that are padding."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if real is not None:
        scores = scores.masked_fill(~real[:, None, None], float('-inf'))
    return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


class LiteralLSA(nn.Module):
    """Windows of one size, padding masked."""

    def __init__(self, dims: int, heads: int, window: int = WINDOW) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv, self.proj = nn.Linear(dims, 3 * dims), nn.Linear(dims, dims)

    def forward(self, x: Tensor, grid: Sequence[int]) -> Tensor:
        b, _, c = x.shape
        window, (height, width) = self.window, grid
        pad = (0, 0, 0, -width % window, 0, -height % window)
        maps = F.pad(x.view(b, height, width, c), pad)
        real = F.pad(torch.ones(b, height, width, 1, dtype=torch.bool, device=x.device), pad)
        rows, cols = maps.shape[1] // window, maps.shape[2] // window

        def cut(t: Tensor) -> Tensor:
            t = t.view(b, rows, window, cols, window, -1).permute(0, 1, 3, 2, 4, 5)
            return t.reshape(b * rows * cols, window**2, -1)

        q, k, v = self.qkv(cut(maps)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        index = torch.arange(window**2, device=x.device)
        table = complex_table(index % window, index // window, c // self.heads)
        out = self.proj(softmax_attention(rotate(q, table), rotate(k, table), v, cut(real)[..., 0]))
        out = out.view(b, rows, cols, window, window, c).permute(0, 1, 3, 2, 4, 5)
        return out.reshape(b, rows * window, cols * window, c)[:, :height, :width].reshape(b, height * width, c)


class LiteralGSA(nn.Module):
    """Keys and values from a strided convolution, at the mean position of their cells."""

    def __init__(self, dims: int, heads: int, sr: int, anchor: int) -> None:
        super().__init__()
        self.heads, self.step, self.anchor = heads, sr, anchor
        self.q, self.kv, self.proj = nn.Linear(dims, dims), nn.Linear(dims, 2 * dims), nn.Linear(dims, dims)
        if sr > 1:
            self.sr, self.norm = nn.Conv2d(dims, dims, sr, stride=sr), nn.LayerNorm(dims, eps=1e-5)

    def forward(self, x: Tensor, grid: Sequence[int]) -> Tensor:
        b, n, c = x.shape
        (height, width), sr = grid, self.step
        scale_y, scale_x = self.anchor / height, self.anchor / width
        sides = (torch.arange(side, device=x.device).float() for side in grid)
        y, x_ = torch.meshgrid(*sides, indexing='ij')
        keys = x
        key_x, key_y = x_.flatten(), y.flatten()
        if sr > 1:
            maps = F.pad(x.transpose(1, 2).reshape(b, c, height, width), (0, -width % sr, 0, -height % sr))
            keys = self.norm(self.sr(maps).flatten(2).transpose(1, 2))
            pool = nn.AvgPool2d(sr, ceil_mode=True)
            key_x, key_y = pool(x_[None])[0].flatten(), pool(y[None])[0].flatten()
        q = self.q(x).unflatten(-1, (self.heads, -1))
        k, v = self.kv(keys).unflatten(-1, (2, self.heads, -1)).unbind(2)
        d = c // self.heads
        q = rotate(q, complex_table(x_.flatten() * scale_x, y.flatten() * scale_y, d))
        k = rotate(k, complex_table(key_x * scale_x, key_y * scale_y, d))
        return self.proj(softmax_attention(q, k, v))


class LiteralPyramidBlock(nn.Module):
    """Pre-norm block with LayerScale."""

    def __init__(self, attn: nn.Module, dims: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(dims, eps=1e-5), attn, nn.LayerNorm(dims, eps=1e-5)
        self.gate, self.up = nn.Linear(dims, hidden, bias=False), nn.Linear(dims, hidden, bias=False)
        self.down = nn.Linear(hidden, dims, bias=False)
        self.gamma1 = nn.Parameter(torch.full((dims,), 1e-4))
        self.gamma2 = nn.Parameter(torch.full((dims,), 1e-4))

    def forward(self, x: Tensor, grid: Sequence[int]) -> Tensor:
        x = x + self.gamma1 * self.attn(self.norm1(x), grid)
        h = self.norm2(x)
        return x + self.gamma2 * self.down(F.silu(self.gate(h)) * self.up(h))


class LiteralPyramidVisionLLaMA(nn.Module):
    """Four stages; returns the last map, normed, ``(B, C, H, W)``. Image sides are multiples of 32."""

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        heads: Sequence[int],
        hidden: Sequence[int],
        anchor: int = 224,
    ) -> None:
        super().__init__()
        self.patches, self.stages = nn.ModuleList(), nn.ModuleList()
        channels, stride = 3, 1
        for s, c in enumerate(dims):
            patch = 2 if s else 4
            stride *= patch
            self.patches.append(nn.ModuleList([nn.Conv2d(channels, c, patch, patch), nn.LayerNorm(c, eps=1e-5)]))
            channels = c
            blocks = nn.ModuleList()
            for j in range(depths[s]):
                sr = (8, 4, 2, 1)[s]
                attn = LiteralGSA(c, heads[s], sr, anchor // stride) if j % 2 else LiteralLSA(c, heads[s])
                blocks.append(LiteralPyramidBlock(attn, c, hidden[s]))
            self.stages.append(blocks)
        self.norm = nn.LayerNorm(channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tuple[Tensor]:
        for (projection, norm), blocks in zip(self.patches, self.stages):
            x = projection(x)
            grid = tuple(x.shape[2:])
            x = norm(x.flatten(2).transpose(1, 2))
            for block in blocks:
                x = block(x, grid)
            x = x.transpose(1, 2).unflatten(2, grid)
        return (self.norm(x.flatten(2).mT).mT.unflatten(2, grid),)
