"""LayerScale."""

import torch
from torch import Tensor, nn

from .options import checked_number


class LayerScale(nn.Module):
    """Learnable factor per channel of a residual branch.

    It is no norm: a schedule's ``norm_decay_mult=0`` leaves its weight decay on, as for mmpretrain's DeiT III, and
    ``flat_decay_mult=0`` takes that off (as every schedule in ``configs`` does).

    Args:
        embed_dims: Channels C.
        init_value: Initial value of every factor.
    """

    def __init__(self, embed_dims: int, init_value: float = 1e-4) -> None:
        super().__init__()
        checked_number('layer_scale_init_value', init_value, 0)
        self.weight = nn.Parameter(torch.full((embed_dims,), float(init_value)))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` to the same shape."""
        return x * self.weight
