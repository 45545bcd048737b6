"""Attention kernels by name, what each can do, and which one ``'auto'`` takes.

Legend: B batch, N query tokens, M key tokens, h heads, d head dim.
"""

import csv
import functools
import importlib
import math
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import OptionError
from . import kernels
from .flash_attention import flash_attention, missing_flash_attention
from .options import checked_choice

HALF = (torch.float16, torch.bfloat16)
FLOATS = (*HALF, torch.float32)
ENVIRONMENT = 'MMVISIONLLAMA_ATTENTION'
#: measured on GPUs by benchmarks/gpu.py: the fastest kernel of a shape, without mask, causality and dropout
TABLE = Path(__file__).with_name('attention_table.csv')

_override: Optional[str] = os.environ.get(ENVIRONMENT) or None


class AttentionSpec(NamedTuple):
    """What a call of attention asks for.

    Attributes:
        device: Type of the device.
        dtype: Of queries, keys and values.
        head_dim: d.
        queries: N; of packed images, all tokens.
        keys: M.
        mask: Some scores are masked or biased.
        is_causal: Token n sees tokens 0 ... n only.
        dropout: Weights are dropped.
        factor: Weights are multiplied after the softmax.
        training: A gradient will be asked for.
        tracing: A compiler, an exporter or a ``torch.func`` transform looks on.
        packed: Runs of tokens attend to themselves alone.
    """

    device: str = 'cpu'
    dtype: torch.dtype = torch.float32
    head_dim: int = 64
    queries: int = 1
    keys: int = 1
    mask: bool = False
    is_causal: bool = False
    dropout: bool = False
    factor: bool = False
    training: bool = False
    tracing: bool = False
    packed: bool = False


def _before_ampere() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0)


@dataclass(frozen=True)
class AttentionBackend:
    """A kernel and what it can do.

    Attributes:
        name: Its name.
        run: ``run(q, k, v, mask=, is_causal=, dropout=)``, all ``(B, h, N, d)``; None is written out by the caller.
        run_packed: ``run_packed(q, k, v, bounds, longest)``, all ``(T, h, d)``; without it packed images run by length.
        devices: Types of devices.
        dtypes: Dtypes on GPUs; on CPUs all.
        max_head_dim: Largest d on GPUs, where it must be a multiple of 8; 0 for any.
        mask: Takes masks and biases.
        causal: Takes ``is_causal``.
        dropout: Takes dropout.
        factor: Takes a factor on the weights.
        tracing: Compilers and exporters can look through it.
        ampere: Needs a GPU of compute capability 8.0 or more, as FlashAttention 2 does.
        second_derivatives: Its gradients have gradients.
        missing: Returns what is not installed and how to get it, or None.
    """

    name: str
    run: Optional[Callable[..., Tensor]] = None
    run_packed: Optional[Callable[..., Tensor]] = None
    devices: Sequence[str] = ()
    dtypes: Sequence[torch.dtype] = ()
    max_head_dim: int = 0
    mask: bool = True
    causal: bool = True
    dropout: bool = True
    factor: bool = False
    tracing: bool = True
    ampere: bool = False
    second_derivatives: bool = False
    missing: Callable[[], Optional[str]] = field(default=lambda: None)

    def why_not(self, spec: AttentionSpec) -> Optional[str]:
        """The first reason why it cannot do what is asked, or None."""
        return self.missing() or next((reason for unmet, reason in self._limits(spec) if unmet), None)

    def _limits(self, spec: AttentionSpec) -> List[Tuple[bool, str]]:
        on_gpu = spec.device != 'cpu'
        dtypes = ', '.join(str(dtype).removeprefix('torch.') for dtype in self.dtypes)
        no_dropout = spec.dropout and (not self.dropout or (self.name == 'flash-attn' and missing_flash_attention(1.0)))
        lengths = self.name == 'flash-attn' and spec.is_causal and spec.queries != spec.keys
        return [
            (bool(self.devices) and spec.device not in self.devices, f'it runs on {", ".join(self.devices)}'),
            (self.ampere and spec.device == 'cuda' and _before_ampere(), 'it needs compute capability 8.0'),
            (on_gpu and bool(self.dtypes) and spec.dtype not in self.dtypes, f'it takes {dtypes}'),
            (
                on_gpu and bool(self.max_head_dim) and (spec.head_dim > self.max_head_dim or spec.head_dim % 8 > 0),
                f'its head dim is a multiple of 8 up to {self.max_head_dim}, not {spec.head_dim}',
            ),
            (
                spec.packed and self.run_packed is not None and (spec.is_causal or spec.dropout),
                'for packed images it has neither causality nor dropout',
            ),
            (not spec.packed and self.run is None and not self.factor, 'it takes packed images only'),
            (spec.mask and not self.mask, 'it takes no mask'),
            (spec.is_causal and not self.causal or lengths, 'it takes no causal attention of this kind'),
            (bool(no_dropout), 'it has no dropout' + ' in version 3' * self.dropout),
            (spec.factor and not self.factor, 'it takes no factor on the weights'),
            (spec.tracing and not self.tracing, 'compilers, exporters and torch.func cannot look through it'),
        ]


ATTENTION_BACKENDS: Dict[str, AttentionBackend] = {}


def register_attention(backend: AttentionBackend) -> AttentionBackend:
    """Makes a backend known by its name; replaces one of the same name."""
    ATTENTION_BACKENDS[backend.name] = backend
    return backend


def check_backend(backend: str) -> str:
    """Returns ``backend``, or raises an OptionError that lists the known ones."""
    return checked_choice('attention backend', backend, ('auto', *ATTENTION_BACKENDS))


@contextmanager
def use_attention(backend: str) -> Iterator[None]:
    """What ``'auto'`` means inside a ``with`` block, in all models; the environment variable
    ``MMVISIONLLAMA_ATTENTION`` does it for a whole process. A compiled model keeps what it was compiled with. A block
    is the whole process's: those of several threads must not overlap.

    Raises:
        OptionError: For an unknown backend.
    """
    global _override
    before, _override = _override, check_backend(backend)
    try:
        yield
    finally:
        _override = before


def overridden() -> bool:
    """Whether ``'auto'`` was given a meaning from outside."""
    return _override is not None


def choose_backend(backend: str, spec: AttentionSpec) -> AttentionBackend:
    """The backend for a call.

    Args:
        backend: A name: it runs or raises. Only ``'sdpa'`` gives way to ``'eager'``, for a factor and in forward-mode
            differentiation. Or ``'auto'``: what :func:`use_attention` says, or the fastest measured.
        spec: The call.

    Raises:
        OptionError: If the backend of that name cannot do it; the message says why, and which can.
    """
    if backend == 'auto' and _override is not None:
        backend = check_backend(_override)
    written_out = spec.factor or kernels.forward_mode()
    if backend == 'auto':
        if written_out:
            backend = 'eager'
        elif spec.packed:
            return _first_packed(spec)
        else:
            backend = _measured(spec)
    elif backend == 'sdpa' and written_out:
        backend = 'eager'
    chosen = ATTENTION_BACKENDS[backend]
    reason = chosen.why_not(spec)
    if reason is None and kernels.forward_mode() and backend != 'eager':
        reason = 'it has no forward-mode derivatives'
    if reason is not None:
        able = [name for name, other in ATTENTION_BACKENDS.items() if other.why_not(spec) is None]
        raise OptionError(
            f'attention backend {backend!r} cannot do this ({reason}): choose auto{"".join(f" or {n}" for n in able)}'
        )
    return chosen


def _first_packed(spec: AttentionSpec) -> AttentionBackend:
    """A variable-length kernel that runs, torch's first; one call of ``'sdpa'`` for each length elsewhere."""
    kernels = (ATTENTION_BACKENDS[name] for name in ('varlen', 'flash-attn'))
    return next((kernel for kernel in kernels if kernel.why_not(spec) is None), ATTENTION_BACKENDS['sdpa'])


def _measured(spec: AttentionSpec) -> str:
    """The measured backend of a call on a GPU, ``'sdpa'`` where nothing was measured."""
    if (
        spec.device != 'cuda'
        or spec.tracing
        or spec.mask
        or spec.is_causal
        or spec.dropout
        or spec.queries != spec.keys
    ):
        return 'sdpa'
    name = measured_backend(
        torch.cuda.get_device_capability(), spec.dtype, spec.head_dim, spec.queries, spec.training, TABLE
    )
    return name if name in ATTENTION_BACKENDS and ATTENTION_BACKENDS[name].why_not(spec) is None else 'sdpa'


@functools.lru_cache(maxsize=1024)
def measured_backend(
    capability: Tuple[int, int], dtype: torch.dtype, head_dim: int, tokens: int, training: bool, table: Path
) -> str:
    """The fastest backend by a table of measurements: of the same card, dtype and head dim at the nearest number of
    tokens, at most twice as many or half; ``'sdpa'`` where there is none.
    """
    nearest, distance = 'sdpa', math.log(2) + 1e-9
    wanted = ('.'.join(map(str, capability)), str(dtype).removeprefix('torch.'), str(head_dim), str(int(training)))
    with open(table, newline='') as file:
        for row in csv.DictReader(file):
            if (row['capability'], row['dtype'], row['head_dim'], row['training']) == wanted:
                away = abs(math.log(tokens / int(row['tokens'])))
                if away < distance:
                    nearest, distance = row['backend'], away
    return nearest


def _sdpa(*kernel: SDPBackend) -> Callable[..., Tensor]:
    def run(q: Tensor, k: Tensor, v: Tensor, mask=None, is_causal: bool = False, dropout: float = 0.0) -> Tensor:
        if not kernel:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal)
        with sdpa_kernel(list(kernel)):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal)

    return run


def _run_flash_attn(q: Tensor, k: Tensor, v: Tensor, mask=None, is_causal: bool = False, dropout: float = 0.0):
    options = dict(dropout_p=dropout) if dropout else {}
    out = flash_attention(dropout).flash_attn_func(*(t.transpose(1, 2) for t in (q, k, v)), causal=is_causal, **options)
    return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)


def _run_flash_attn_packed(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int) -> Tensor:
    out = flash_attention().flash_attn_varlen_func(q, k, v, bounds, bounds, longest, longest)
    return out[0] if isinstance(out, tuple) else out


def _varlen_missing() -> Optional[str]:
    try:
        importlib.import_module('torch.nn.attention.varlen')
    except ImportError:
        return 'it came with torch 2.10'
    return None


def _run_varlen(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int) -> Tensor:
    varlen = importlib.import_module('torch.nn.attention.varlen')
    return varlen.varlen_attn(q, k, v, bounds, bounds, longest, longest)


register_attention(AttentionBackend('eager', factor=True, second_derivatives=True))
register_attention(AttentionBackend('sdpa', run=_sdpa()))
register_attention(
    AttentionBackend(
        'sdpa-flash',
        run=_sdpa(SDPBackend.FLASH_ATTENTION),
        devices=('cpu', 'cuda'),
        dtypes=HALF,
        max_head_dim=256,
        mask=False,
        tracing=False,
        ampere=True,
    )
)
register_attention(
    AttentionBackend(
        'sdpa-cudnn',
        run=_sdpa(SDPBackend.CUDNN_ATTENTION),
        devices=('cuda',),
        dtypes=HALF,
        max_head_dim=128,
        mask=False,
        tracing=False,
        ampere=True,
    )
)
register_attention(
    AttentionBackend(
        'sdpa-efficient',
        run=_sdpa(SDPBackend.EFFICIENT_ATTENTION),
        devices=('cuda',),
        dtypes=FLOATS,
        max_head_dim=256,
        tracing=False,
    )
)
register_attention(
    AttentionBackend(
        'flash-attn',
        run=_run_flash_attn,
        run_packed=_run_flash_attn_packed,
        devices=('cuda',),
        dtypes=HALF,
        max_head_dim=256,
        mask=False,
        tracing=False,
        ampere=True,
        missing=missing_flash_attention,
    )
)
register_attention(
    AttentionBackend(
        'varlen',
        run_packed=_run_varlen,
        devices=('cuda',),
        dtypes=HALF,
        max_head_dim=256,
        mask=False,
        causal=False,
        dropout=False,
        tracing=False,
        ampere=True,
        missing=_varlen_missing,
    )
)
