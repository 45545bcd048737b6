"""Causal attention and its soft mask (iLLaMA, arXiv 2404.06773, eq. 1 and 2).

The soft mask is S = alpha * 1 + (1 - alpha) * lower triangle: alpha = 1 is bidirectional, alpha = 0 causal. Its
schedule is :class:`~mmvisionllama.engine.SoftMaskHook`, its model :class:`~mmvisionllama.backbones.iLLaMA`.
"""

from typing import Optional

import torch
from torch import Tensor

from .attention import AttentionContext
from .rotary import RotaryTable


def soft_mask_matrix(num_tokens: int, alpha: Tensor) -> Tensor:
    """S: 1 on and below the diagonal, ``alpha`` (a scalar tensor in [0, 1]) above it: ``(N, N)`` in alpha's dtype."""
    visible = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=alpha.device).tril()
    return torch.where(visible, torch.ones_like(alpha), alpha)


def causal_context(
    rope: Optional[RotaryTable],
    x: Tensor,
    alpha: Tensor,
    visibility: str,
    *,
    multiplicative: bool = False,
    keys: Optional[Tensor] = None,
) -> AttentionContext:
    """Context of causal attention for tokens ``x``, ``(B, N, C)``.

    Args:
        rope: Table of the N tokens.
        x: The tokens.
        alpha: Scalar tensor in [0, 1].
        visibility: What alpha means, known without reading the tensor: ``'causal'`` (0), ``'all'`` (1) or ``'soft'``.
        multiplicative: Multiply S onto the weights after the softmax (eq. 2) instead of adding log S to the scores.
        keys: True for the tokens that others may see, ``(B, 1, 1, N)``; None shows all.
    """
    if keys is not None:
        return _causal_context_of(keys, rope, x, alpha, visibility, multiplicative)
    if visibility == 'all':
        return AttentionContext(rope)
    if multiplicative:
        return AttentionContext(rope, factor=soft_mask_matrix(x.shape[1], alpha))
    if visibility == 'causal':
        return AttentionContext(rope, is_causal=True)
    return AttentionContext(rope, mask=soft_mask_matrix(x.shape[1], alpha).log().to(x.dtype))


def _causal_context_of(
    keys: Tensor, rope: Optional[RotaryTable], x: Tensor, alpha: Tensor, visibility: str, multiplicative: bool
) -> AttentionContext:
    """:func:`causal_context` with the padding hidden; the fast causal kernels know no second mask."""
    if visibility == 'all':
        return AttentionContext(rope, mask=keys)
    soft = soft_mask_matrix(x.shape[1], alpha)
    if multiplicative:
        return AttentionContext(rope, mask=keys, factor=soft)
    if visibility == 'causal':
        return AttentionContext(rope, mask=keys & torch.ones_like(soft, dtype=torch.bool).tril())
    return AttentionContext(rope, mask=soft.log().to(x.dtype).masked_fill(~keys, float('-inf')))
