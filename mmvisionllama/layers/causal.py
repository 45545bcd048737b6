"""Causal attention with a soft mask: iLLaMA's attention.

Legend: B batch, N tokens, C channels. The soft mask is S = alpha * 1 + (1 - alpha) * lower triangle (iLLaMA, eq. 2):
alpha = 1 is bidirectional, alpha = 0 causal.
"""

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from .attention import RotaryAttention
from .rotary import RotaryTable


class CausalContext(NamedTuple):
    """What causal attention needs besides the tokens; made once per forward pass for all blocks.

    Attributes:
        rope (RotaryTable, optional): Table of the N tokens; None without rotary embedding.
        is_causal (bool): Token n sees tokens 0 ... n only.
        mask (Tensor, optional): ``(N, N)``, added to the scores.
        factor (Tensor, optional): ``(N, N)``, multiplied onto the weights after the softmax.
    """

    rope: Optional[RotaryTable]
    is_causal: bool = False
    mask: Optional[Tensor] = None
    factor: Optional[Tensor] = None


def soft_mask_matrix(num_tokens: int, alpha: Tensor) -> Tensor:
    """S: 1 on and below the diagonal, ``alpha`` (a scalar tensor in [0, 1]) above it: ``(N, N)`` in alpha's dtype."""
    visible = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=alpha.device).tril()
    return torch.where(visible, torch.ones_like(alpha), alpha)


class CausalAttention(RotaryAttention):
    """:class:`RotaryAttention` whose mask comes with the rotary table in a :class:`CausalContext`."""

    def forward(self, x: Tensor, context: CausalContext, *, scale: Optional[Tensor] = None) -> Tensor:
        """Tokens ``(B, N, C)`` to the same shape, times ``scale`` ``(C,)``."""
        return super().forward(
            x, context.rope, mask=context.mask, is_causal=context.is_causal, factor=context.factor, scale=scale
        )
