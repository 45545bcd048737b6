"""The rotation and SwiGLU's gate as autograd functions that keep less for the backward pass.

Everything here computes what a plain formula elsewhere computes; ``benchmarks/kernels.py`` measures what it gains.
``MMVISIONLLAMA_KERNELS=0`` in the environment, or :func:`use_kernels`, switches to the formulas. Compilers, tracers,
``torch.func`` transforms, forward-mode differentiation and learned tables always get the formulas.
"""

import os
from contextlib import contextmanager
from typing import Iterator, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

_enabled = os.environ.get('MMVISIONLLAMA_KERNELS', '1') != '0'


@contextmanager
def use_kernels(enabled: bool) -> Iterator[None]:
    """Switches the functions of this file on or off inside a ``with`` block."""
    global _enabled
    before, _enabled = _enabled, enabled
    try:
        yield
    finally:
        _enabled = before


def usable() -> bool:
    """Whether a function of this file may take the place of its formula here."""
    if not _enabled or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return not transformed()


def transformed() -> bool:
    """Whether a ``torch.func`` transform or forward-mode differentiation is at work."""
    return torch._C._are_functorch_transforms_active() or forward_mode()


def forward_mode() -> bool:
    """Whether forward-mode differentiation (``torch.func.jvp`` too) is at work; fused attention does not know it."""
    return forward_ad._current_level >= 0


def can_rotate(x: Tensor, cos: Tensor) -> bool:
    """Whether :func:`rotate` takes these; pairs of an odd head dim are no complex numbers in memory."""
    return usable() and x.shape[-1] % 2 == 0 and not cos.requires_grad


def can_gate() -> bool:
    """Whether :func:`silu_mul` takes the place of its formula here."""
    return usable()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """``(B, N, h, d)`` rotated by ``([B,] N, 1 | h, P)``; see :func:`mmvisionllama.layers.rotary.apply_rotary`."""
    return _Rotate.apply(x, cos, sin)


def rotate_qkv(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """``(B, N, 3, h, d)`` to rotated q, rotated k and v, ``(B, N, h, d)`` each."""
    return _RotateQKV.apply(qkv, cos, sin)


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up`` of two tensors of one shape and dtype."""
    return _SiLUMul.apply(gate, up)


def _as_complex(x: Tensor) -> Tensor:
    """Channel pairs (2m, 2m+1) as complex numbers: ``(..., 2P)`` to ``(..., P)``, a view where the strides allow it."""
    if x.stride(-1) != 1 or x.storage_offset() % 2 or any(stride % 2 for stride in x.stride()[:-1]):
        x = x.clone(memory_format=torch.contiguous_format)
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def _rotate_into(out: Tensor, x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Writes the rotation of ``x`` into ``out``, both ``(B, N, h, d)``, as a complex product: one vectorised pass."""
    rotated = 2 * cos.shape[-1]
    dtype = torch.promote_types(x.dtype, cos.dtype)
    turn = torch.complex(cos.to(dtype), sin.to(dtype))  # [[B,] N, 1 | h, P]
    if turn.ndim < x.ndim and len(x) > 1:  # long runs of memory pay for the copy when samples share it
        turn = turn.expand(-1, x.shape[2], -1).contiguous()
    pairs = _as_complex(x[..., :rotated].to(dtype))
    if out.dtype == dtype:
        torch.mul(pairs, turn, out=torch.view_as_complex(out[..., :rotated].unflatten(-1, (-1, 2))))
    else:
        out[..., :rotated] = torch.view_as_real(pairs * turn).flatten(-2)
    if rotated < x.shape[-1]:
        out[..., rotated:] = x[..., rotated:]


class _Rotate(torch.autograd.Function):
    """Rotation that keeps the tables only; autograd's own graph of it keeps the activations too."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        _rotate_into(out, x, cos, sin)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        cos, sin = ctx.saved_tensors
        return _Rotate.apply(grad, cos, -sin), None, None


class _RotateQKV(torch.autograd.Function):
    """Packed qkv ``(B, N, 3, h, d)`` to rotated q, rotated k, and v; the gradient is assembled in one buffer."""

    @staticmethod
    def forward(ctx, qkv: Tensor, cos: Tensor, sin: Tensor):
        ctx.save_for_backward(cos, sin)
        heads = qkv.shape[3]
        qk = qkv[:, :, :2].flatten(2, 3)  # [B, N, 2h, d]
        out = torch.empty(qk.shape, dtype=qk.dtype, device=qk.device)
        if cos.shape[-2] > 1:
            cos, sin = (torch.cat((table, table), dim=-2) for table in (cos, sin))
        _rotate_into(out, qk, cos, sin)
        return out[:, :, :heads], out[:, :, heads:], qkv[:, :, 2]

    @staticmethod
    def backward(ctx, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor):
        cos, sin = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative was asked for
            rotated = (_Rotate.apply(grad, cos, -sin) for grad in (grad_q, grad_k))
            return torch.stack((*rotated, grad_v), dim=2), None, None
        b, n, h, d = grad_v.shape
        grad = torch.empty(b, n, 3, h, d, dtype=grad_v.dtype, device=grad_v.device)
        _rotate_into(grad[:, :, 0], grad_q, cos, -sin)
        _rotate_into(grad[:, :, 1], grad_k, cos, -sin)
        grad[:, :, 2] = grad_v
        return grad, None, None


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
