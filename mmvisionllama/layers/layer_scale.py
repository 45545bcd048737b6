"""LayerScale, and linears that take its factors into their weights."""

from typing import Optional

import torch
import torch.nn.functional as F
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


def _compute_dtype(x: Tensor) -> torch.dtype:
    """What a linear computes in on ``x``."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def scaled_linear(linear: nn.Module, x: Tensor, scale: Optional[Tensor] = None) -> Tensor:
    """``scale * linear(x)``, with the factors on whichever is smaller, the weights or the tokens.

    Scaled weights leave no token-sized work to LayerScale's backward pass: the factors' gradient comes from the
    weights' gradient. In half precision small factors would push weights below the smallest normal number, so there
    the output is scaled.

    Args:
        linear: Called on ``x``; anything but a plain ``nn.Linear`` (a quantised one, say) has its output scaled.
        x: ``(..., C_in)``.
        scale: ``(C_out,)``, or None for ``linear(x)``.

    Returns:
        Tensor: ``(..., C_out)``.
    """
    if scale is None:
        return linear(x)
    # torchao keeps the module and makes its weight a tensor of another type
    plain = type(linear) is nn.Linear and type(linear.weight) is nn.Parameter
    if plain and x.shape[:-1].numel() > linear.in_features and _compute_dtype(x) != torch.float16:
        bias = None if linear.bias is None else linear.bias * scale
        return F.linear(x, linear.weight * scale[:, None], bias)
    return linear(x) * scale
