"""LayerScale."""

import torch
from torch import Tensor, nn


class LayerScale(nn.Module):
    """Learnable factor per channel of a residual branch.

    Args:
        embed_dims: Channels C.
        init_value: Initial value of every factor.
    """

    def __init__(self, embed_dims: int, init_value: float = 1e-4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((embed_dims,), float(init_value)))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` to the same shape."""
        return x * self.weight
