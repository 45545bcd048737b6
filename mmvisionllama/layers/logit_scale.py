"""Temperature of the attention logits on grids of another size than the training's."""

import math
from typing import Optional, Sequence, Union

import torch
from torch import Tensor

from ..errors import OptionError
from .options import checked_choice

LOGIT_SCALES = ('log_n', 'inverse_log_n')


def check_logit_scale(name: Optional[str], anchor: Sequence[float]) -> Optional[str]:
    """The choice, or an OptionError for another one and for an anchor of a single token, whose logarithm is 0."""
    if name is None:
        return None
    checked_choice('logit_scale', name, LOGIT_SCALES)
    if anchor[0] * anchor[1] < 2:
        raise OptionError(f'logit_scale={name!r} needs an anchor of more than one token')
    return name


def log_n_scale(
    grid: Sequence[Union[int, Tensor]], anchor: Sequence[float], name: Optional[str]
) -> Optional[Union[float, Tensor]]:
    """Factor of the logits for N patches after a training with N0: ``log N / log N0``, or its inverse.

    A softmax over more tokens is flatter. ``'log_n'`` sharpens it, to hold its entropy: Jin et al.,
    "Training-free Diffusion Model Adaptation for Variable-Sized Text-to-Image Synthesis", NeurIPS 2023 (arXiv
    2306.08645), whose scale is ``sqrt(log_T N / d)`` inside a square, so that logits get the logarithm itself; for text
    Chiang and Cholak, ACL 2022 (arXiv 2202.12172). ``'inverse_log_n'`` divides by it: so the summaries of the golden
    gate post (jerryxio.ng/posts/nd-rope) describe its test at 384 pixels. Publications disagree: measure both.

    Args:
        grid: Token grid (H, W), or each image's own as two tensors ``(B, 1)``.
        anchor: Token grid of the training.
        name: One of :data:`LOGIT_SCALES`, or None.

    Returns:
        A number or a tensor ``(B, 1)``; None for no factor, which includes that of 1.
    """
    if name is None:
        return None
    count = grid[0] * grid[1]
    if torch.compiler.is_compiling() and not isinstance(count, Tensor):  # sizes may be symbols
        count = torch.scalar_tensor(1.0) * count
    if isinstance(count, Tensor):
        factor = count.clamp(min=2).log() / math.log(anchor[0] * anchor[1])
        return factor if name == 'log_n' else 1 / factor
    factor = math.log(max(count, 2)) / math.log(anchor[0] * anchor[1])
    factor = factor if name == 'log_n' else 1 / factor
    return None if factor == 1 else factor
