"""The rotation and SwiGLU's gate as autograd functions that keep less for the backward pass.

Everything here computes what a plain formula elsewhere computes; ``benchmarks/kernels.py`` measures what it gains.
``MMVISIONLLAMA_KERNELS=0`` in the environment, or :func:`use_kernels`, switches to the formulas. Compilers, tracers,
``torch.func`` transforms, forward-mode differentiation and learned tables always get the formulas.
"""

import functools
import importlib
import os
import warnings
from contextlib import contextmanager
from types import ModuleType
from typing import Iterator, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

_enabled = os.environ.get('MMVISIONLLAMA_KERNELS', '1') != '0'


@contextmanager
def use_kernels(enabled: bool) -> Iterator[None]:
    """Switches the functions of this file on or off inside a ``with`` block.

    It is the whole process's: blocks of several threads must not overlap.
    """
    global _enabled
    before, _enabled = _enabled, enabled
    try:
        yield
    finally:
        _enabled = before


def usable() -> bool:
    """Whether a function of this file may take the place of its formula here."""
    return _enabled and not traced()


def traced() -> bool:
    """Whether a compiler, a tracer, a ``torch.func`` transform or forward-mode differentiation looks on."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or transformed()


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


def can_recompute() -> bool:
    """Whether :func:`recomputing` may be used; other hooks on saved tensors (checkpointing's, say) go before it."""
    if not usable() or not torch.is_grad_enabled():
        return False
    try:
        hooks = torch._C._autograd
        return hooks._saved_tensors_hooks_is_enabled() and hooks._top_saved_tensors_default_hooks(False) is None
    except (AttributeError, TypeError):  # not public, and may change
        return False


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """``(B, N, h, d)`` rotated by ``([B,] N, 1 | h, P)``; see :func:`mmvisionllama.layers.rotary.apply_rotary`."""
    return _Rotate.apply(x, cos, sin)


def rotate_qkv(qkv: Tensor, cos: Tensor, sin: Tensor, in_place: bool = False) -> Tuple[Tensor, Tensor, Tensor]:
    """``(B, N, 3, h, d)`` to rotated q, rotated k and v, ``(B, N, h, d)`` each.

    With ``in_place`` the three lie where ``qkv`` lay, which is the caller's to give: attention keeps q, k and v for its
    backward pass, and an unrotated q and k beside them are of no use to anyone.
    """
    return _RotateQKV.apply(qkv, cos, sin, in_place)


def may_overwrite(module: nn.Module, out: Tensor) -> bool:
    """Whether nobody but the caller has an eye on what ``module`` returned: a plain linear layer without hooks."""
    if not usable() or type(module) is not nn.Linear or type(out) is not Tensor or not out.is_contiguous():
        return False
    if 'forward' in vars(module):  # wrapped, as recorders and offloading do
        return False
    if torch._C._len_torch_dispatch_stack():  # selective checkpointing, for one, keeps what passes by
        return False
    hooks = module._forward_hooks or module._backward_hooks or nn.modules.module._global_forward_hooks
    return not (hooks or nn.modules.module._global_backward_hooks)


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up`` of two tensors of one shape and dtype."""
    return _SiLUMul.apply(gate, up)


def _as_complex(x: Tensor) -> Tensor:
    """Channel pairs (2m, 2m+1) as complex numbers: ``(..., 2P)`` to ``(..., P)``, a view where the strides allow it."""
    if x.stride(-1) != 1 or x.storage_offset() % 2 or any(stride % 2 for stride in x.stride()[:-1]):
        x = x.clone(memory_format=torch.contiguous_format)
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def _rotate_one(out: Tensor, x: Tensor, cos: Tensor, sin: Tensor) -> None:
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
    if rotated < x.shape[-1] and out is not x:
        out[..., rotated:] = x[..., rotated:]


@functools.cache
def _triton(name: str) -> Optional[ModuleType]:
    """A file of Triton kernels, or None without Triton."""
    try:
        return importlib.import_module(f'.{name}', __package__)
    except ImportError:
        return None


@functools.cache
def _starts(device: torch.device) -> bool:
    """Whether a kernel can be started: Triton builds what does it with the C compiler, at the first launch."""
    try:
        one = torch.zeros(1, device=device)
        importlib.import_module('.triton_gate', __package__).silu_mul(one, one)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the compiler's, Triton's own, of a missing library
        reason = ' '.join(str(error).split())[:200]
        warnings.warn(
            f"Triton cannot start kernels here ({reason}): torch's operations run in their place, more slowly; a C "
            f"compiler (gcc) and Python's headers are what it takes",
            stacklevel=2,
        )
        return False
    return True


@functools.cache
def _has_bfloat16(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _triton_for(x: Tensor, name: str) -> Optional[ModuleType]:
    """The file of kernels for a tensor, or None: Triton 3.1 compiles no bfloat16 before Ampere."""
    if not x.is_cuda or (x.dtype == torch.bfloat16 and not _has_bfloat16(x.device)):
        return None
    module = _triton(name)
    return module if module is not None and _starts(x.device) else None


def _rotate_into(
    outs: Sequence[Tensor], parts: Sequence[Tensor], cos: Tensor, sin: Tensor, inverse: bool = False
) -> None:
    """Writes rotated q, rotated k and a copy of v, or the first ones of them, ``(B, N, h, d)`` each."""
    module = _triton_for(parts[0], 'triton_rotary')
    if module is not None:
        return module.rotate_into(outs, parts, cos, sin, inverse)
    for out, part in zip(outs[:2], parts):
        _rotate_one(out, part, cos, -sin if inverse else sin)
    if len(outs) == 3:
        outs[2].copy_(parts[2])


class _Rotate(torch.autograd.Function):
    """Rotation that keeps the tables only; autograd's own graph of it keeps the activations too."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor, inverse: bool = False) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.inverse = inverse
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        _rotate_into((out,), (x,), cos, sin, inverse)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        return _Rotate.apply(grad, *ctx.saved_tensors, not ctx.inverse), None, None, None


class _RotateQKV(torch.autograd.Function):
    """Packed qkv ``(B, N, 3, h, d)`` to rotated q, rotated k, and v; the gradient is assembled in one buffer."""

    @staticmethod
    def forward(ctx, qkv: Tensor, cos: Tensor, sin: Tensor, in_place: bool):
        ctx.save_for_backward(cos, sin)
        qkv = qkv.detach()  # with the same version counter: whoever else keeps qkv for a backward pass gets an error
        heads = qkv.shape[3]
        qk = qkv[:, :, :2].flatten(2, 3)  # [B, N, 2h, d]
        out = qk if in_place else torch.empty(qk.shape, dtype=qk.dtype, device=qk.device)
        if cos.shape[-2] > 1:
            cos, sin = (torch.cat((table, table), dim=-2) for table in (cos, sin))
        _rotate_into((out,), (qk,), cos, sin)
        if in_place and not qkv.is_inference():
            torch.autograd.graph.increment_version(qkv)
        return out[:, :, :heads], out[:, :, heads:], qkv[:, :, 2]

    @staticmethod
    def backward(ctx, *grads: Tensor):
        cos, sin = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative was asked for
            rotated = (_Rotate.apply(grad, cos, sin, True) for grad in grads[:2])
            return torch.stack((*rotated, grads[2]), dim=2), None, None, None
        b, n, h, d = grads[2].shape
        grad = torch.empty(b, n, 3, h, d, dtype=grads[2].dtype, device=grads[2].device)
        _rotate_into(grad.unbind(2), grads, cos, sin, inverse=True)
        return grad, None, None, None


@contextmanager
def recomputing(product: Tensor, gate: Tensor, up: Tensor) -> Iterator[None]:
    """Inside, autograd keeps of ``product = silu_mul(gate, up)`` how to make it again; gate and up it has already."""
    # what writes into the product, a hook on the next layer say, leaves the address and raises the version
    address, count, version = product.data_ptr(), product.numel(), product._version
    inputs = gate.detach(), up.detach()  # share version counters with what _SiLUMul keeps, which checks them
    del product, gate, up

    def pack(tensor: Tensor) -> Union[Tensor, torch.Size]:
        same = tensor.data_ptr() == address and tensor._version == version
        return tensor.shape if same and tensor.numel() == count and tensor.is_contiguous() else tensor

    def unpack(kept: Union[Tensor, torch.Size]) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        with torch.no_grad():
            return _silu_mul(*inputs).view(kept)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def _silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    module = _triton_for(gate, 'triton_gate')
    if module is not None:
        return module.silu_mul(gate, up)
    return F.silu(gate).mul_(up)


class _SiLUMul(torch.autograd.Function):
    """``silu(gate) * up``. Autograd's own graph keeps silu(gate) as well and makes one more full-size gradient."""

    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return _silu_mul(gate, up)

    @staticmethod
    def backward(ctx, grad: Tensor):
        gate, up = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative was asked for
            slope = torch.sigmoid(gate)
            slope = slope * (1 + gate * (1 - slope))
            return grad * up * slope, grad * F.silu(gate)
        module = _triton_for(grad, 'triton_gate')
        if module is not None:
            return module.silu_mul_backward(gate, up, grad)
        grad_gate = grad * up
        torch.ops.aten.silu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)
        return grad_gate, F.silu(gate).mul_(grad)
