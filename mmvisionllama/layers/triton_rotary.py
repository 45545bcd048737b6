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

#: channels of one program
BLOCK = 2048


@triton.jit
def _rotate_kernel(
    q, k, v, out_q, out_k, out_v, cos, sin,
    tokens, heads,
    in_b, in_n, in_h, out_b, out_n, out_h, table_b, table_n, table_h,
    PAIRS: tl.constexpr, PLANES: tl.constexpr, INVERSE: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Some heads of one token of q (program axis 2 is 0), k (1) or v (2): PAIRS pairs of channels, PLANES rotated."""
    token = tl.program_id(0).to(tl.int64)  # large batches pass 2 ** 31 elements
    sample, place = token // tokens, token % tokens
    part = tl.program_id(2)
    if part == 0:
        source, target = q, out_q
    elif part == 1:
        source, target = k, out_k
    else:
        source, target = v, out_v
    head = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None]
    channel = tl.arange(0, 2 * COLUMNS)[None, :]
    inside = (head < heads) & (channel < 2 * PAIRS)
    # whole rows, not every second channel: memory is read in long words
    x = tl.load(source + sample * in_b + place * in_n + head * in_h + channel, mask=inside)
    even, odd = tl.split(x.reshape(ROWS, COLUMNS, 2))
    plane = tl.arange(0, COLUMNS)[None, :]
    turned = (head < heads) & (plane < PLANES) & (part < 2)
    row = sample * table_b + place * table_n + head * table_h + plane
    c = tl.load(cos + row, mask=turned, other=1.0)
    s = tl.load(sin + row, mask=turned, other=0.0)
    if INVERSE:
        s = -s
    if WIDE:
        a, b, c, s = even.to(tl.float64), odd.to(tl.float64), c.to(tl.float64), s.to(tl.float64)
    else:
        a, b = even.to(tl.float32), odd.to(tl.float32)
    x = tl.join(a * c - b * s, a * s + b * c).reshape(ROWS, 2 * COLUMNS)
    at = target + sample * out_b + place * out_n + head * out_h + channel
    tl.store(at, x.to(target.dtype.element_ty), mask=inside)


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
    columns = triton.next_power_of_2(pairs)
    rows = min(triton.next_power_of_2(heads), max(BLOCK // (2 * columns), 1))
    grid = (batch * tokens, triton.cdiv(heads, rows), len(parts))
    with torch.cuda.device_of(parts[0]):
        _rotate_kernel[grid](
            *sources, *targets, cos, sin,
            tokens, heads,
            *parts[0].stride()[:3], *outs[0].stride()[:3], table_b, cos.stride(-3), table_h,
            PAIRS=pairs, PLANES=planes, INVERSE=inverse, WIDE=torch.float64 in (parts[0].dtype, cos.dtype),
            ROWS=rows, COLUMNS=columns,
        )  # fmt: skip
