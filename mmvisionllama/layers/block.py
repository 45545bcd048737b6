"""The VisionLLaMA block (Figure 2a, eq. 1) and its residual branches."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import NO_CONTEXT, AttentionContext
from .layer_scale import LayerScale
from .options import check_flags, checked_rate


class DropPath(nn.Module):
    """Stochastic depth: zeroes whole samples of a residual branch and rescales the others.

    mmcv's and torchvision's versions would make those libraries a requirement of the layers.

    Args:
        drop_prob: Probability of dropping a sample's branch.
    """

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.drop_prob = checked_rate('drop_prob', drop_prob)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, ...)`` to the same shape."""
        if not self.drop_prob or not self.training:
            return x
        keep = 1 - self.drop_prob
        return x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f'drop_prob={self.drop_prob:g}'


class TransformerBlock(nn.Module):
    """``x += attn(ln1(x), context)``, ``x += ffn(ln2(x))``, each branch with LayerScale and DropPath.

    The block knows nothing of images: what its attention needs besides the tokens comes in the context, made once per
    forward pass for all blocks of a kind.

    Args:
        attn: Module called as ``attn(x, context)``.
        ffn: Module called as ``ffn(x)``.
        ln1: Norm before the attention.
        ln2: Norm before the feed-forward layer.
        embed_dims: Channels C.
        layer_scale_init_value: Initial value of LayerScale; 0 for none.
        drop_path: Stochastic depth rate of both branches.
        with_cp: Recompute the block in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        attn: nn.Module,
        ffn: nn.Module,
        ln1: nn.Module,
        ln2: nn.Module,
        *,
        embed_dims: int,
        layer_scale_init_value: float = 0.0,
        drop_path: float = 0.0,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        check_flags(with_cp=with_cp)
        self.ln1 = ln1
        self.attn = attn
        self.ls1 = LayerScale(embed_dims, layer_scale_init_value) if layer_scale_init_value else nn.Identity()
        self.ln2 = ln2
        self.ffn = ffn
        self.ls2 = LayerScale(embed_dims, layer_scale_init_value) if layer_scale_init_value else nn.Identity()
        self.drop_path = DropPath(drop_path)
        self.with_cp = with_cp

    def forward(self, x: Tensor, context: AttentionContext = NO_CONTEXT) -> Tensor:
        """Tokens ``(B, N, C)`` to ``(B, N, C)``."""
        if self.with_cp and self.training and torch.is_grad_enabled():
            return checkpoint(self._forward, x, context, use_reentrant=False)
        return self._forward(x, context)

    def _forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        x = x + self.drop_path(self.ls1(self.attn(self.ln1(x), context)))
        return x + self.drop_path(self.ls2(self.ffn(self.ln2(x))))
