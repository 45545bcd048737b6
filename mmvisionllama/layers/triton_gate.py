"""SwiGLU's gate, ``silu(gate) * up``, and its gradients as one Triton kernel each, fp32 inside.

Only :mod:`.kernels` imports this file, and only for tensors on a GPU; see :mod:`.triton_rotary`.
"""

from typing import Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048


@triton.jit
def _forward_kernel(gate, up, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    g = tl.load(gate + at, mask=inside)
    u = tl.load(up + at, mask=inside)
    if g.dtype != tl.float64:
        g, u = g.to(tl.float32), u.to(tl.float32)
    tl.store(out + at, (g / (1 + tl.exp(-g)) * u).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(gate, up, grad, grad_gate, grad_up, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    g = tl.load(gate + at, mask=inside)
    u = tl.load(up + at, mask=inside)
    d = tl.load(grad + at, mask=inside)
    if g.dtype != tl.float64:
        g, u, d = g.to(tl.float32), u.to(tl.float32), d.to(tl.float32)
    slope = 1 / (1 + tl.exp(-g))
    silu = g * slope
    tl.store(grad_gate + at, (d * u * (slope + silu * (1 - slope))).to(grad_gate.dtype.element_ty), mask=inside)
    tl.store(grad_up + at, (d * silu).to(grad_up.dtype.element_ty), mask=inside)


def _launch(kernel, *tensors: Tensor) -> None:
    count = tensors[0].numel()
    if count:
        with torch.cuda.device_of(tensors[0]):
            kernel[(triton.cdiv(count, BLOCK),)](*tensors, count, BLOCK=BLOCK)


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up`` of two tensors of one shape and dtype, contiguous."""
    gate, up = gate.contiguous(), up.contiguous()
    out = torch.empty_like(gate)
    _launch(_forward_kernel, gate, up, out)
    return out


def silu_mul_backward(gate: Tensor, up: Tensor, grad: Tensor) -> Tuple[Tensor, Tensor]:
    """Gradients of gate and up for the gradient of their product, all of one shape and dtype."""
    gate, up, grad = gate.contiguous(), up.contiguous(), grad.contiguous()
    grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
    _launch(_backward_kernel, gate, up, grad, grad_gate, grad_up)
    return grad_gate, grad_up
