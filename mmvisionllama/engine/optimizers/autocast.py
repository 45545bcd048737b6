"""Mixed precision without loss scaling, on any device."""

from contextlib import contextmanager
from typing import Any, Union

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Runs the forward pass under autocast; parameters and optimizer stay fp32.

    mmengine's ``AmpOptimWrapper`` scales the loss, which float16 needs and bfloat16 (fp32's exponent range) does not,
    and refuses to start without a GPU.

    Args:
        dtype: ``'bfloat16'``; ``'float32'`` switches mixed precision off.
        **kwargs: As mmengine's ``OptimWrapper``.

    Raises:
        ValueError: For another dtype, ``'float16'`` included.
    """

    def __init__(self, dtype: Union[str, torch.dtype] = 'bfloat16', **kwargs: Any) -> None:
        super().__init__(**kwargs)
        dtype = str(dtype).removeprefix('torch.')
        if dtype not in ('bfloat16', 'float32'):
            raise ValueError(
                f'AutocastOptimWrapper does not scale the loss, so it takes bfloat16 or float32, got {dtype}: '
                f"for float16 use type='AmpOptimWrapper', loss_scale='dynamic'"
            )
        self.dtype = getattr(torch, dtype)

    @contextmanager
    def optim_context(self, model: nn.Module):
        """Autocast on the device of the model's parameters, and gradient accumulation as in the base class."""
        device = next(model.parameters()).device.type
        enabled = self.dtype != torch.float32
        with super().optim_context(model), torch.autocast(device, self.dtype, enabled=enabled):
            yield
