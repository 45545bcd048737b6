"""Contexts of the grids seen last, so that a forward pass does not build the tables of a known grid again.

A pyramid spends a quarter of its kernel launches on tables and masks. They are pure functions of options and sizes: the
key holds all of these, the device and the dtype, and nothing that a model learns.
"""

import threading
from collections import OrderedDict
from typing import Callable, Hashable, Optional

import torch
from torch import nn

from . import kernels
from .as2drope import AS2DRoPE
from .attention import AttentionContext

#: four grids of a pyramid of four stages; at 800 x 1333 pixels about 13 MB each
MAX_ENTRIES = 32

_entries: 'OrderedDict[Hashable, AttentionContext]' = OrderedDict()
_lock = threading.Lock()


def clear_contexts() -> None:
    """Forgets all contexts and frees their memory."""
    with _lock:
        _entries.clear()


def may_be_shared(*rotaries: nn.Module) -> bool:
    """Whether the embeddings' tables depend on their options alone, and nobody looks on as they are made."""
    if not kernels.usable():  # nothing is kept, and compilers cannot read what is_untouched does
        return False
    return all(type(r) is AS2DRoPE and not r.is_learned and is_untouched(r) for r in rotaries)


def is_untouched(module: nn.Module) -> bool:
    """Whether a module has neither hooks nor methods of its own in the place of its class's."""
    replaced = any(callable(getattr(type(module), name, None)) for name in vars(module))
    return not (replaced or module._forward_hooks or module._forward_pre_hooks)


def cached_context(
    key: Hashable, device: Optional[torch.device], make: Callable[[], AttentionContext]
) -> AttentionContext:
    """The context made for ``key`` before, or a new one. It belongs to many: make another in the place of changing it.

    Args:
        key: Everything that ``make`` depends on but the device.
        device: Device of its tensors; None is torch's default one.
        make: Makes the context. Tables with a gradient are made each time, as is everything under compilers, tracers,
            dispatch modes, CUDA graph capture and with kernels off (:func:`~mmvisionllama.layers.use_kernels`).
    """
    if not kernels.usable() or torch._C._len_torch_dispatch_stack():
        return make()
    device = torch.empty(0, device=device).device  # where None leads to, and which of several cards
    stream = None
    if device.type == 'cuda':
        if torch.cuda.is_current_stream_capturing():  # its memory belongs to the graph
            return make()
        stream = torch.cuda.current_stream(device).cuda_stream  # another stream might read too early
    # what inference mode makes, no backward pass may keep
    key = (key, device, stream, torch.is_inference_mode_enabled())
    with _lock:
        context = _entries.get(key)
        if context is not None:
            _entries.move_to_end(key)
            return context
    context = make()
    if not any(table.cos.requires_grad for table in (context.query, context.key)):
        with _lock:
            _entries[key] = context
            while len(_entries) > MAX_ENTRIES:
                _entries.popitem(last=False)
    return context
