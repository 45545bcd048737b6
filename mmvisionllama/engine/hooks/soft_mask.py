"""The schedule of iLLaMA's soft mask (arXiv 2404.06773, eq. 2)."""

import math
from typing import List, Optional

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from ...errors import OptionError
from ..unwrapping import unwrapped

SCHEDULES = ('constant', 'linear')


def soft_mask_at(iteration: int, duration: int, schedule: str = 'constant', start: float = 1.0) -> float:
    """alpha of the soft mask.

    Args:
        iteration: Iterations done before this one.
        duration: Iterations until the mask is fully causal.
        schedule: ``'constant'`` keeps ``start``; ``'linear'`` falls from ``start`` in the first of the ``duration``
            iterations to 0 in the last.
        start: alpha at the beginning.

    Returns:
        float: alpha, 0 from ``duration`` on.
    """
    if iteration >= duration:
        return 0.0
    if schedule == 'constant':
        return start
    return start * (1 - iteration / (duration - 1)) if duration > 1 else 0.0


@HOOKS.register_module()
class SoftMaskHook(Hook):
    """Sets alpha of every soft mask in the model from the Runner's iteration.

    A pure function of the iteration: a resumed run continues with the value it would have had. The value is in the logs
    as ``soft_mask``, in training and at each validation, which uses it too: accuracy during the soft mask is not that
    of the causal model.

    Args:
        schedule: ``'constant'`` or ``'linear'``, see :func:`soft_mask_at`.
        end: Epochs (or iterations) until the mask is fully causal; the paper's cutoff.
        by_epoch: ``end`` counts epochs.
        start: alpha at the beginning, 1 (bidirectional).

    Raises:
        ValueError: For an unknown schedule, ``end`` or ``start`` out of range, or a model without a soft mask.

    Examples:
        >>> custom_hooks = [dict(type='SoftMaskHook', schedule='linear', end=50)]
    """

    priority = 'NORMAL'

    def __init__(self, schedule: str = 'constant', end: int = 50, by_epoch: bool = True, start: float = 1.0) -> None:
        if schedule not in SCHEDULES:
            raise ValueError(
                f'unknown soft mask schedule {schedule!r}: choose one of {", ".join(map(repr, SCHEDULES))}'
            )
        if end <= 0 or not 0 < start <= 1:
            raise ValueError(f'the soft mask needs end > 0 and start in (0, 1], got end={end}, start={start}')
        self.schedule = schedule
        self.end = end
        self.by_epoch = by_epoch
        self.start = start
        self.modules: Optional[List[nn.Module]] = None

    def duration(self, runner) -> int:
        """Iterations until the mask is fully causal."""
        if not self.by_epoch:
            return self.end
        loader = runner.train_dataloader
        sampler = getattr(loader.batch_sampler, 'sampler', loader.sampler)
        # the length of mmengine's endless sampler is that of all processes' samples
        processes = get_world_size() if isinstance(sampler, InfiniteSampler) else 1
        return self.end * math.ceil(len(loader) / processes)

    def before_train(self, runner) -> None:
        """Sets the value of the iteration before the first: a validation that was due may come before that."""
        model = unwrapped(runner.model)
        self.modules = [
            module
            for module in model.modules()
            if hasattr(module, 'set_soft_mask') and getattr(module, 'mask_mode', None) != 'none'
        ]
        if not self.modules:
            raise OptionError(
                'SoftMaskHook found no soft mask in the model: use iLLaMA with a mask_mode, or take the hook out of '
                'custom_hooks'
            )
        duration, total = self.duration(runner), runner.max_iters
        if duration > total:
            runner.logger.warning(
                f'the soft mask lasts {duration} iterations but the training ends after {total}: its last evaluation '
                f'is not that of the causal model, which is what a checkpoint of it gives'
            )
        self._set(runner, max(runner.iter - 1, 0))

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        runner.message_hub.update_scalar('train/soft_mask', self._set(runner, runner.iter))

    def before_val_epoch(self, runner) -> None:
        if self.modules:
            runner.message_hub.update_scalar('val/soft_mask', self.modules[0].soft_mask)

    def _set(self, runner, step: int) -> float:
        alpha = soft_mask_at(step, self.duration(runner), self.schedule, self.start)
        for module in self.modules:
            module.set_soft_mask(alpha)
        return alpha
