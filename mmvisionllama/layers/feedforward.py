"""Feed-forward layers, chosen by name through ``FFNS``."""

import math
from typing import Optional

import torch.nn.functional as F
from torch import Tensor, nn

from . import kernels
from .options import autocast, check_flags, checked_choice, checked_rate, checked_whole, made


def swiglu_hidden(embed_dims: int, multiple: int = 256) -> int:
    """Hidden size of LLaMA's SwiGLU: ``int(8 C / 3)`` rounded up to a multiple of 256."""
    return math.ceil(int(8 * embed_dims / 3) / multiple) * multiple


def _checked_hidden(hidden_dims: Optional[int], default: int, bias: bool, drop: float) -> int:
    check_flags(bias=bias)
    checked_rate('drop', drop)
    return default if hidden_dims is None else checked_whole('hidden size of the feed-forward layer', hidden_dims)


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up`` of two tensors of one shape and dtype."""
    return kernels.silu_mul(gate, up) if kernels.can_gate() else F.silu(gate) * up


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))``, three linears (section 3.1, the paper's [57]).

    Args:
        embed_dims: Channels C.
        hidden_dims: Hidden size; by default :func:`swiglu_hidden`.
        bias: Biases of the three linears.
        drop: Dropout of the output.
    """

    def __init__(self, embed_dims: int, hidden_dims: Optional[int] = None, bias: bool = False, drop: float = 0.0):
        super().__init__()
        hidden_dims = _checked_hidden(hidden_dims, swiglu_hidden(embed_dims), bias, drop)
        self.gate = nn.Linear(embed_dims, hidden_dims, bias=bias)
        self.up = nn.Linear(embed_dims, hidden_dims, bias=bias)
        self.down = nn.Linear(hidden_dims, embed_dims, bias=bias)
        self.drop = nn.Dropout(drop) if drop > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` to ``(..., C)``."""
        x = autocast(x)  # once for both: each would make and keep a copy of its own
        gate, up = self.gate(x), self.up(x)
        product = silu_mul(gate, up)
        if not kernels.can_recompute():
            return self.drop(self.down(product))
        with kernels.recomputing(product, gate, up):
            return self.drop(self.down(product))


class GELUFFN(nn.Module):
    """``down(gelu(up(x)))`` with biases, ViT's feed-forward layer, for the ablation of Table 7a.

    Args:
        embed_dims: Channels C.
        hidden_dims: Hidden size, 4 C by default.
        bias: Biases of the two linears.
        drop: Dropout of the output.
        approximate: ``'none'``, or ``'tanh'`` as DiT has it.
    """

    def __init__(
        self,
        embed_dims: int,
        hidden_dims: Optional[int] = None,
        bias: bool = True,
        drop: float = 0.0,
        approximate: str = 'none',
    ):
        super().__init__()
        hidden_dims = _checked_hidden(hidden_dims, 4 * embed_dims, bias, drop)
        self.approximate = checked_choice('GELU approximation', approximate, ('none', 'tanh'))
        self.up = nn.Linear(embed_dims, hidden_dims, bias=bias)
        self.down = nn.Linear(hidden_dims, embed_dims, bias=bias)
        self.drop = nn.Dropout(drop) if drop > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` to ``(..., C)``."""
        return self.drop(self.down(F.gelu(self.up(x), approximate=self.approximate)))


FFNS = {'swiglu': SwiGLU, 'gelu': GELUFFN}


def build_ffn(cfg: dict, embed_dims: int, hidden_dims: Optional[int] = None) -> nn.Module:
    """Builds a feed-forward layer from ``dict(type='swiglu' | 'gelu', ...)``.

    Raises:
        OptionError: For an unknown type, and for an argument that the layer does not take.
    """
    cfg = dict(cfg)
    ffn = FFNS[checked_choice('feed-forward type', cfg.pop('type', 'swiglu'), tuple(FFNS))]
    return made('ffn_cfg', ffn, embed_dims, cfg.pop('hidden_dims', hidden_dims), **cfg)
