"""Parts of a model whose outputs stay fp32 in mixed precision."""

from typing import Any, List, Sequence

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...errors import OptionError
from ..unwrapping import unwrapped


@HOOKS.register_module()
class FullPrecisionOutputHook(Hook):
    """Casts what some modules return under autocast to fp32.

    mmdetection makes the anchors of proposals in the dtype of the RPN's output. bfloat16 has 8 significant bits: it
    knows every fourth pixel from 512 on. mmcv's RoIAlign, and on the CPU its NMS, do not know bfloat16 at all.

    Args:
        modules: Names of modules in the model, e.g. ``('neck', 'rpn_head')``.

    Raises:
        OptionError: At the start, for a name that the model does not have.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self.modules = tuple(modules)
        self._handles: List[RemovableHandle] = []

    def before_run(self, runner) -> None:
        """Registers a forward hook on each module, for training, validation and test alike."""
        for handle in self._handles:
            handle.remove()
        model = unwrapped(runner.model)
        known = dict(model.named_modules())
        for name in self.modules:
            if name not in known:
                raise OptionError(f'{type(self).__name__}: {type(model).__name__} has no module {name!r}')
        self._handles = [known[name].register_forward_hook(_output_to_fp32) for name in self.modules]


def _output_to_fp32(module: nn.Module, args: tuple, out: Any) -> Any:
    return to_fp32(out)


def to_fp32(out: Any) -> Any:
    """Tensors of half precision, in lists and tuples too, in fp32; everything else as it is."""
    if isinstance(out, (list, tuple)):
        return type(out)(to_fp32(item) for item in out)
    return out.float() if isinstance(out, Tensor) and out.dtype in (torch.float16, torch.bfloat16) else out
