"""A literal plain VisionLLaMA: complex RoPE built inside every layer, softmax written out, nothing shared or fused.

The other side of the benchmarks, and of one test that both compute the same.
"""

import torch
from torch import Tensor, nn


def complex_table(
    height: int, width: int, head_dim: int, scale_y: float, scale_x: float, class_token: bool, device: torch.device
) -> Tensor:
    """Complex rotations of a grid, row by row: ``(N, head_dim / 2)``."""
    theta = 10000.0 ** (-torch.arange(0, head_dim, 4, dtype=torch.float32, device=device) / head_dim)
    rows = [torch.zeros(head_dim // 2, device=device)] if class_token else []
    y, x = (torch.arange(n, device=device) * scale for n, scale in ((height, scale_y), (width, scale_x)))
    y, x = torch.meshgrid(y, x, indexing='ij')
    angles = torch.stack((x.reshape(-1, 1) * theta, y.reshape(-1, 1) * theta), dim=-1).flatten(1)
    angles = torch.cat((*[row[None] for row in rows], angles))
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Complex product of ``(B, N, h, d)`` with the table."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * table[:, None]).flatten(3).to(x.dtype)


class LiteralAttention(nn.Module):
    """Builds its own table in every call."""

    def __init__(self, dims: int, heads: int, anchor: int, class_token: bool) -> None:
        super().__init__()
        self.heads, self.anchor, self.class_token = heads, anchor, class_token
        self.qkv = nn.Linear(dims, 3 * dims)
        self.proj = nn.Linear(dims, dims)

    def forward(self, x: Tensor, grid) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).unbind(2)
        table = complex_table(
            *grid, c // self.heads, self.anchor / grid[0], self.anchor / grid[1], self.class_token, x.device
        )
        q, k = rotate(q, table).transpose(1, 2), rotate(k, table).transpose(1, 2)
        weights = (q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5).softmax(dim=-1)
        return self.proj((weights @ v.transpose(1, 2)).transpose(1, 2).reshape(b, n, c))


class LiteralBlock(nn.Module):
    """Pre-norm block with LayerScale."""

    def __init__(self, dims: int, heads: int, hidden: int, anchor: int, class_token: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dims, eps=1e-6), nn.LayerNorm(dims, eps=1e-6)
        self.attn = LiteralAttention(dims, heads, anchor, class_token)
        self.gate = nn.Linear(dims, hidden, bias=False)
        self.up = nn.Linear(dims, hidden, bias=False)
        self.down = nn.Linear(hidden, dims, bias=False)
        self.gamma1 = nn.Parameter(torch.full((dims,), 1e-4))
        self.gamma2 = nn.Parameter(torch.full((dims,), 1e-4))

    def forward(self, x: Tensor, grid) -> Tensor:
        x = x + self.gamma1 * self.attn(self.norm1(x), grid)
        h = self.norm2(x)
        return x + self.gamma2 * self.down(nn.functional.silu(self.gate(h)) * self.up(h))


class LiteralVisionLLaMA(nn.Module):
    """Class token, patch 16, final norm; returns the class token ``(B, C)``."""

    def __init__(self, dims: int, layers: int, heads: int, hidden: int, patch: int = 16, anchor: int = 14) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dims, patch, stride=patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dims))
        self.blocks = nn.ModuleList(LiteralBlock(dims, heads, hidden, anchor, True) for _ in range(layers))
        self.norm = nn.LayerNorm(dims, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)
        grid = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)
        for block in self.blocks:
            x = block(x, grid)
        return self.norm(x)[:, 0]
