"""Directions of the rotary frequencies: which way across the grid each rotation plane counts.

A rotation plane turns by the product of a token's position (x, y) with a vector f of its own. 2D RoPE takes vectors
along the two axes; other methods differ in nothing but these vectors.

Legend: h heads, P rotation planes, K = P / 2 magnitudes.
"""

import math
from typing import Optional, Tuple

import torch
from torch import Tensor

#: what :func:`golden_vectors` takes: 0.2 ... 20 for coordinates in -1 ... 1 (the published range) on a grid of 14 x 14
GOLDEN_RANGE = (0.2 * 2 / 14, 20 * 2 / 14)
DIRECTIONS = ('axial', 'golden', 'mixed', 'spiral')


def axial_vectors(magnitudes: Tensor) -> Tensor:
    """Each magnitude along x, then along y: ``(1 | h, K)`` to ``(1 | h, P, 2)`` (section 3.3, eq. 3)."""
    return torch.diag_embed(magnitudes[..., None].expand(*magnitudes.shape, 2)).flatten(-3, -2)


def spiral_vectors(magnitudes: Tensor, num_directions: int) -> Tensor:
    """Each magnitude along the two axes, turned by each of the angles k * 90 / ``num_directions`` degrees.

    Source: Liu et al., "Spiral RoPE", 2026 (arXiv 2602.03227): groups of channels whose directions are spread
    uniformly, each with magnitudes of its own. In which order channels belong to directions is free, as projections
    are learned; here a magnitude's directions follow each other.

    Args:
        magnitudes: ``(1, M)``.
        num_directions: Angles k.

    Returns:
        Tensor: ``(1, M * num_directions * 2, 2)``.
    """
    angle = torch.arange(num_directions, device=magnitudes.device, dtype=magnitudes.dtype)
    angle = angle * (math.pi / 2 / num_directions)
    axes = torch.stack((angle.cos(), angle.sin(), -angle.sin(), angle.cos()), dim=-1).view(-1, 2)  # [2k, 2]
    return (magnitudes[..., None, None] * axes).flatten(1, 2)


def golden_vectors(
    num_heads: int, planes: int, freq_range: Tuple[float, float] = GOLDEN_RANGE, device: Optional[torch.device] = None
) -> Tensor:
    """Directions that the golden ratio spreads, so that no two of all heads agree (golden gate RoPE).

    Vector i of all heads' vectors in a row points to the angle ``i * pi * (sqrt(5) - 1) / 2``; the magnitudes of a
    head's P vectors grow geometrically from the first to the second of ``freq_range``. Source: Jerry Xiong, "On
    n-dimensional rotary positional embeddings", 2025 (jerryxio.ng/posts/nd-rope).

    Args:
        num_heads: Heads h.
        planes: Rotation planes P of a head.
        freq_range: Smallest and largest magnitude, radians per step of the anchor grid.
        device: Device of the result.

    Returns:
        Tensor: ``(h, P, 2)``, fp64, for the angles of the last vectors are many turns.
    """
    index = torch.arange(num_heads * planes, device=device, dtype=torch.float64)
    angle = (index * (math.pi * (math.sqrt(5) - 1) / 2)).view(num_heads, planes)
    low, high = (math.log(bound) for bound in freq_range)
    steps = torch.arange(planes, device=device, dtype=torch.float64) / max(planes - 1, 1)
    magnitude = torch.exp(low + (high - low) * steps)  # [P]
    return torch.stack((angle.cos(), angle.sin()), dim=-1) * magnitude[:, None]


def random_rotations(magnitudes: Tensor, num_heads: int) -> Tensor:
    """Where learned directions begin: :func:`axial_vectors` that each head turns by an angle of its own.

    Source: Heo et al., "Rotary Position Embedding for Vision Transformer", ECCV 2024 (arXiv 2403.13298), RoPE-Mixed,
    eq. 14 and its released code: per head one angle, uniform in a whole turn.

    Args:
        magnitudes: ``(1, K)``.
        num_heads: Heads h.

    Returns:
        Tensor: ``(h, P, 2)``, from torch's generator.
    """
    angle = torch.rand(num_heads) * (2 * math.pi)
    axes = torch.stack((angle.cos(), angle.sin(), -angle.sin(), angle.cos()), dim=-1).view(num_heads, 1, 2, 2)
    return (magnitudes[..., None, None] * axes).flatten(1, 2)
