"""The papers' formulas, slowly and in float64; they share no code with the layers."""

import math

import torch


def cells(grid, sr):
    """Positions (x, y) of the real tokens in each sr x sr cell, row-major."""
    height, width = grid
    return [
        [(x, y) for y in range(y0, min(y0 + sr, height)) for x in range(x0, min(x0 + sr, width))]
        for y0 in range(0, height, sr)
        for x0 in range(0, width, sr)
    ]


def rotated(vector, position, base=10000.0):
    """Section 3.3 for one head vector: planes alternate between x and y, plane pair k turns by base ** (-4k / d)."""
    d = len(vector)
    out = vector.clone()
    for plane in range(d // 2):
        angle = position[plane % 2] * base ** (-4 * (plane // 2) / d)
        a, b = vector[2 * plane], vector[2 * plane + 1]
        out[2 * plane] = a * math.cos(angle) - b * math.sin(angle)
        out[2 * plane + 1] = a * math.sin(angle) + b * math.cos(angle)
    return out


def softmax_attention(queries, keys, values):
    """One head in float64; queries and keys are lists of rotated vectors."""
    keys, values = torch.stack(keys), torch.stack(values)
    scores = torch.stack(queries) @ keys.T / keys.shape[1] ** 0.5
    return scores.softmax(dim=-1) @ values


def turn(angle: torch.Tensor) -> torch.Tensor:
    return torch.stack((torch.stack((angle.cos(), -angle.sin())), torch.stack((angle.sin(), angle.cos()))))


def paper_matrix(x: float, y: float, channels: int, base: float = 10000.0) -> torch.Tensor:
    """R of section 3.3: 2 x 2 turns along the diagonal, the column's and the row's by turns."""
    turns = []
    for m in range(0, channels, 4):
        theta = base ** (-m / channels)
        turns += [
            turn(torch.tensor(x * theta, dtype=torch.float64)),
            turn(torch.tensor(y * theta, dtype=torch.float64)),
        ]
    return torch.block_diag(*turns)


def rotated_by_paper(x: torch.Tensor, grid, anchor, base: float = 10000.0, per_axis: bool = True) -> torch.Tensor:
    """Every token of a ``(B, H * W, h, d)`` tensor times its matrix, scaled as eq. 4 says."""
    height, width = grid
    factor_y = anchor[0] / height
    factor_x = anchor[1] / width if per_axis else factor_y
    out = torch.empty_like(x, dtype=torch.float64)
    for row in range(height):
        for col in range(width):
            matrix = paper_matrix(col * factor_x, row * factor_y, x.shape[-1], base)
            token = row * width + col
            out[:, token] = x[:, token].double() @ matrix.T
    return out
