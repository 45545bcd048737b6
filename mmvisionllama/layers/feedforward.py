"""Feed-forward layers, chosen by name through ``FFNS``."""

import math
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layer_scale import scaled_linear


def swiglu_hidden(embed_dims: int, multiple: int = 256) -> int:
    """Hidden size of LLaMA's SwiGLU: ``int(8 C / 3)`` rounded up to a multiple of 256."""
    return math.ceil(int(8 * embed_dims / 3) / multiple) * multiple


class _SiLUMul(torch.autograd.Function):
    """``silu(gate) * up``. Autograd's own graph keeps silu(gate) as well and makes one more full-size gradient."""

    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, grad: Tensor):
        gate, up = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative was asked for
            slope = torch.sigmoid(gate)
            slope = slope * (1 + gate * (1 - slope))
            return grad * up * slope, grad * F.silu(gate)
        grad_gate = grad * up
        torch.ops.aten.silu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)
        return grad_gate, F.silu(gate).mul_(grad)


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up`` of two tensors of one shape and dtype."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # compilers fuse the plain formula
        return F.silu(gate) * up
    return _SiLUMul.apply(gate, up)


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
        hidden_dims = hidden_dims or swiglu_hidden(embed_dims)
        self.gate = nn.Linear(embed_dims, hidden_dims, bias=bias)
        self.up = nn.Linear(embed_dims, hidden_dims, bias=bias)
        self.down = nn.Linear(hidden_dims, embed_dims, bias=bias)
        self.drop = nn.Dropout(drop) if drop > 0 else nn.Identity()

    def forward(self, x: Tensor, *, scale: Optional[Tensor] = None) -> Tensor:
        """``(..., C)`` to ``(..., C)``, times ``scale`` ``(C,)``."""
        gate, up = self.gate(x), self.up(x)  # [..., hidden] each
        hidden = silu_mul(gate, up) if torch.is_grad_enabled() else F.silu(gate, inplace=True).mul_(up)
        return self.drop(scaled_linear(self.down, hidden, scale))


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
        hidden_dims = hidden_dims or 4 * embed_dims
        self.approximate = approximate
        self.up = nn.Linear(embed_dims, hidden_dims, bias=bias)
        self.down = nn.Linear(hidden_dims, embed_dims, bias=bias)
        self.drop = nn.Dropout(drop) if drop > 0 else nn.Identity()

    def forward(self, x: Tensor, *, scale: Optional[Tensor] = None) -> Tensor:
        """``(..., C)`` to ``(..., C)``, times ``scale`` ``(C,)``."""
        return self.drop(scaled_linear(self.down, F.gelu(self.up(x), approximate=self.approximate), scale))


FFNS = {'swiglu': SwiGLU, 'gelu': GELUFFN}


def build_ffn(cfg: dict, embed_dims: int, hidden_dims: Optional[int] = None) -> nn.Module:
    """Builds a feed-forward layer from ``dict(type='swiglu' | 'gelu', ...)``."""
    cfg = dict(cfg)
    name = cfg.pop('type', 'swiglu')
    if name not in FFNS:
        raise ValueError(f'unknown feed-forward type {name!r}: choose one of {", ".join(map(repr, FFNS))}')
    return FFNS[name](embed_dims, cfg.pop('hidden_dims', hidden_dims), **cfg)
