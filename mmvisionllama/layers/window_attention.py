"""LSA, locally-grouped self-attention: attention inside windows (section 3.2), also that of ViTDet's windowed blocks.

Legend: B batch, H x W token grid, w window side, n windows of one image, C channels.
"""

from typing import Optional, Sequence, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from .as2drope import RotaryEmbedding
from .attention import AttentionContext, RotaryAttention, placed_context
from .context_cache import cached_context, may_be_shared
from .options import at_least_fp32, ceil_div, checked_choice, checked_whole, exporting, may_have_rest, size_agnostic
from .valid_grid import ValidGrid


def check_mask_padding(mask_padding: Union[bool, str]) -> bool:
    """True or False; ``'released'`` is accepted for False."""
    return checked_choice('mask_padding', mask_padding, (True, False), {'released': False})


def window_context(
    rotary: RotaryEmbedding,
    grid: Sequence[int],
    window_size: int,
    mask_padding: Union[bool, str] = True,
    device: Optional[torch.device] = None,
    dtype: torch.dtype = torch.float32,
    valid: Optional[ValidGrid] = None,
) -> AttentionContext:
    """Window-local positions 0 ... w-1, never scaled, and the padding mask of a grid.

    Args:
        rotary: Embedding of the attention's heads.
        grid: Token grid (H, W).
        window_size: Side w of a window, tokens.
        mask_padding: True hides the padding of partial windows. False attends to it as the released code does: its keys
            and values are the projection's bias.
        device: Device of the tokens.
        dtype: Dtype of the tokens.
        valid: Where the images of a padded batch are; what is outside counts as the padding of partial windows.

    Raises:
        ValueError: For another ``mask_padding``.
    """
    mask_padding = check_mask_padding(mask_padding)

    def make() -> AttentionContext:
        return _window_context(rotary, grid, window_size, mask_padding, device, dtype, valid)

    if valid is not None or not may_be_shared(rotary):
        return make()
    key = 'window', rotary.options, tuple(grid), window_size, mask_padding, at_least_fp32(dtype)
    return cached_context(key, device, make)


def _window_context(
    rotary: RotaryEmbedding,
    grid: Sequence[int],
    window_size: int,
    mask_padding: bool,
    device: Optional[torch.device],
    dtype: torch.dtype,
    valid: Optional[ValidGrid],
) -> AttentionContext:
    height, width = grid
    positions = rotary.positions((window_size, window_size), device=device, dtype=dtype)
    mask = None
    if valid is not None:
        if mask_padding:
            mask = partition_windows(valid.mask[..., None], window_size)[..., 0][:, None, None]  # [B * n, 1, 1, w * w]
            mask = mask | ~mask.any(dim=-1, keepdim=True)  # a softmax over nothing is no number
    elif mask_padding and (may_have_rest(height, window_size) or may_have_rest(width, window_size)):
        rows, cols = ceil_div(height, window_size), ceil_div(width, window_size)
        in_height = (torch.arange(rows * window_size, device=device) < height).view(rows, 1, window_size, 1)
        in_width = (torch.arange(cols * window_size, device=device) < width).view(1, cols, 1, window_size)
        mask = (in_height & in_width).reshape(rows * cols, 1, 1, window_size**2)  # [n, 1, 1, w * w]
        if exporting():  # ONNX guards boolean masks against rows without a key, which windows never have
            mask = torch.zeros(mask.shape, device=device, dtype=dtype).masked_fill(~mask, float('-inf'))
    return placed_context(rotary, positions, grid=(height, width), mask=mask, valid=valid)


def partition_windows(x: Tensor, window_size: int) -> Tensor:
    """Pads a map right and bottom to whole windows and cuts it: ``(B, H, W, C)`` to ``(B * n, w * w, C)``."""
    b, height, width, c = x.shape
    rows, cols = ceil_div(height, window_size), ceil_div(width, window_size)
    pad_h, pad_w = rows * window_size - height, cols * window_size - width
    if size_agnostic() or pad_h or pad_w:
        x = F.pad(x, (0, 0, 0, pad_w, 0, pad_h))
    x = x.view(b, rows, window_size, cols, window_size, c).transpose(2, 3)  # [B, rows, cols, w, w, C]
    return x.reshape(b * rows * cols, window_size**2, c)


def merge_windows(x: Tensor, grid: Sequence[int], window_size: int) -> Tensor:
    """Inverse of :func:`partition_windows`: ``(B * n, w * w, C)`` to ``(B, H, W, C)``, padding cut off."""
    height, width = grid
    rows, cols = ceil_div(height, window_size), ceil_div(width, window_size)
    x = x.view(-1, rows, cols, window_size, window_size, x.shape[-1]).transpose(2, 3)
    x = x.reshape(-1, rows * window_size, cols * window_size, x.shape[-1])
    if size_agnostic():  # the tracer cannot tell that a slice has these sides
        return F.pad(x, (0, 0, 0, width - cols * window_size, 0, height - rows * window_size))
    return x[:, :height, :width]


class WindowAttention(RotaryAttention):
    """:class:`RotaryAttention` inside non-overlapping windows with window-local positions.

    Args:
        embed_dims: Channels C.
        num_heads: Heads.
        window_size: Side w of a window, tokens.
        **kwargs: As :class:`RotaryAttention`.
    """

    def __init__(self, embed_dims: int, num_heads: int, window_size: int = 7, **kwargs) -> None:
        super().__init__(embed_dims, num_heads, **kwargs)
        self.window_size = checked_whole('window_size', window_size)

    def attend(self, x: Tensor, context: AttentionContext) -> Tensor:
        """Row-major tokens of the context's grid, ``(B, H * W, C)``, to the same shape."""
        b, tokens, c = x.shape
        if context.valid is not None:
            x = context.valid.hide(x)  # as the zeros that fill partial windows
        windows = partition_windows(x.view(b, *context.grid, c), self.window_size)  # [B * n, w * w, C]
        mask = context.mask
        if mask is not None and context.valid is None:
            mask = mask.expand(b, *mask.shape).flatten(0, 1)  # [B * n, 1, 1, w * w]
        windows = super().attend(windows, AttentionContext(context.rope, mask=mask, positions=context.positions))
        return merge_windows(windows, context.grid, self.window_size).reshape(b, tokens, c)
