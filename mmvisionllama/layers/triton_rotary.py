"""The rotation as one Triton kernel: half precision in, fp32 inside, half precision out, each element moved once.

Only :mod:`.kernels` imports this file, and only for tensors on a GPU; Triton's interpreter runs it on the CPU
(``TRITON_INTERPRET=1``), which is how it is tested without a card.

Legend: B batch, N tokens, h heads, d head dim, P rotation planes.
"""

from typing import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

#: channel pairs of one program: 2 KiB of bf16
BLOCK = 512


@triton.jit
def _rotate_kernel(
    q, k, v, out_q, out_k, out_v, cos, sin,
    tokens, heads, pairs, planes,
    in_b, in_n, in_h, out_b, out_n, out_h, table_b, table_n, table_h,
    INVERSE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One token of q (program axis 2 is 0), k (1) or v (2): ``pairs`` channel pairs of each head, P of them rotated."""
    token = tl.program_id(0).to(tl.int64)  # large batches pass 2 ** 31 elements
    sample, place = token // tokens, token % tokens
    part = tl.program_id(2)
    if part == 0:
        source, target = q, out_q
    elif part == 1:
        source, target = k, out_k
    else:
        source, target = v, out_v
    index = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = index < heads * pairs
    head, pair = index // pairs, index % pairs
    channel = 2 * pair[:, None] + tl.arange(0, 2)[None, :]  # [BLOCK, 2]
    at = source + sample * in_b + place * in_n + head[:, None] * in_h + channel
    even, odd = tl.split(tl.load(at, mask=inside[:, None]))
    turned = inside & (pair < planes) & (part < 2)
    row = sample * table_b + place * table_n + head * table_h + pair
    c = tl.load(cos + row, mask=turned, other=1.0)
    s = tl.load(sin + row, mask=turned, other=0.0)
    if INVERSE:
        s = -s
    if WIDE:
        a, b, c, s = even.to(tl.float64), odd.to(tl.float64), c.to(tl.float64), s.to(tl.float64)
    else:
        a, b = even.to(tl.float32), odd.to(tl.float32)
    rotated = tl.join(a * c - b * s, a * s + b * c)
    at = target + sample * out_b + place * out_n + head[:, None] * out_h + channel
    tl.store(at, rotated.to(target.dtype.element_ty), mask=inside[:, None])


def rotate_into(
    outs: Sequence[Tensor], parts: Sequence[Tensor], cos: Tensor, sin: Tensor, inverse: bool = False
) -> None:
    """Writes rotated q, rotated k and a copy of v, or the first ones of them, in one launch.

    Args:
        outs: One to three tensors ``(B, N, h, d)`` of one layout; may be ``parts`` themselves.
        parts: The tensors to read, likewise.
        cos: ``([B,] N, 1 | h, P)``, fp32 or fp64.
        sin: As ``cos``.
        inverse: Turn back.
    """
    batch, tokens, heads, dims = parts[0].shape
    in_place = outs[0] is parts[0]
    if len({part.stride() for part in parts}) > 1 or parts[0].stride(-1) != 1:
        parts = [part.contiguous() for part in parts]
    cos, sin = (table if table.stride(-1) == 1 else table.contiguous() for table in (cos, sin))
    if cos.stride() != sin.stride():
        cos, sin = cos.contiguous(), sin.contiguous()
    planes = cos.shape[-1]
    pairs = planes if in_place else dims // 2
    if not parts[0].numel():
        return
    sources, targets = (list(tensors) + [tensors[0]] * (3 - len(tensors)) for tensors in (parts, outs))
    table_b = cos.stride(0) if cos.ndim == 4 else 0
    table_h = cos.stride(-2) if cos.shape[-2] > 1 else 0
    grid = (batch * tokens, triton.cdiv(heads * pairs, BLOCK), len(parts))
    with torch.cuda.device_of(parts[0]):
        _rotate_kernel[grid](
            *sources, *targets, cos, sin,
            tokens, heads, pairs, planes,
            *parts[0].stride()[:3], *outs[0].stride()[:3], table_b, cos.stride(-3), table_h,
            INVERSE=inverse, WIDE=torch.float64 in (parts[0].dtype, cos.dtype), BLOCK=BLOCK,
        )  # fmt: skip
