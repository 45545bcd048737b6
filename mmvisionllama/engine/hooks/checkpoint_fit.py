"""Refuses a checkpoint that is not the model's, where mmengine would warn and go on from random values."""

import os
from typing import Any, Dict

from mmengine.dist import all_gather_object
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseTTAModel
from mmengine.registry import HOOKS

from ...checkpoints.loading import check_switches, fitting, load_strictly
from ...checkpoints.reading import find_state_dict
from ...errors import CheckpointError
from ..unwrapping import unwrapped

#: all weights of a checkpoint of which a part is loaded
GIVEN = 'given_state_dict'


@HOOKS.register_module()
class CheckpointNamesHook(Hook):
    """Finds the weights of a loaded checkpoint before other hooks read them; the Runner's builder adds it.

    mmengine's EMAHook knows them under ``state_dict`` alone, and under the model's own names.

    Args:
        partial: Leave there what fits by name and shape. Resuming is never partial.
    """

    priority = 'HIGHEST'

    def __init__(self, partial: bool = False) -> None:
        self.partial = partial

    def after_load_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Puts a raw state dict, one under another key, or that of a wrapped model in the place of ``state_dict``."""
        own = checkpoint.get('state_dict')
        if not isinstance(own, dict) or any(str(name).startswith('module.') for name in own):
            checkpoint['state_dict'] = find_state_dict(checkpoint)
        if self.partial and not runner._resume:
            checkpoint[GIVEN] = checkpoint['state_dict']
            checkpoint['state_dict'] = fitting(unwrapped(runner.model), checkpoint[GIVEN])
            if 'ema_state_dict' in checkpoint:  # mmpretrain's EMAHook reads it without resuming, too
                self._keep_fitting(runner, checkpoint)

    @staticmethod
    def _keep_fitting(runner: Any, checkpoint: Dict[str, Any]) -> None:
        stored, prefix = checkpoint['ema_state_dict'], 'module.'
        weights = {name[len(prefix) :]: value for name, value in stored.items() if name.startswith(prefix)}
        fits = fitting(unwrapped(runner.model), weights)
        kept = {prefix + name: fits[name] for name in checkpoint['state_dict'] if name in fits}
        counters = {name: value for name, value in stored.items() if not name.startswith(prefix)}
        checkpoint['ema_state_dict'] = {**counters, **kept}


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Checks what the Runner loads by ``load_from`` or resumes; :func:`mmvisionllama.launch.build_runner` adds it.

    Args:
        partial: Load what fits by name and shape. Resuming is never partial.

    Raises:
        CheckpointError: For weights that are missing, in excess, of another shape, NaN or integers, and, on resuming,
            for the state of another optimizer.
    """

    priority = 'VERY_LOW'  # after EMAHook, which exchanges the averaged weights on resuming

    def __init__(self, partial: bool = False) -> None:
        self.partial = partial

    def before_run(self, runner: Any) -> None:
        """Lets an EMAHook average the model itself inside test-time augmentation, whose names no checkpoint has."""
        for hook in runner.hooks:
            if isinstance(hook, EMAHook) and isinstance(hook.src_model, BaseTTAModel):
                hook.src_model, hook.ema_model.module = unwrapped(hook.src_model), unwrapped(hook.ema_model.module)

    def after_load_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Loads the weights strictly; the Runner loads the same ones again afterwards."""
        path = str(runner._load_from or runner.work_dir)
        partial = self.partial and not runner._resume
        model = unwrapped(runner.model)
        given = checkpoint.pop(GIVEN, None)
        # an EMAHook may have exchanged what fits
        weights = {**given, **checkpoint['state_dict']} if given else find_state_dict(checkpoint)
        weights = load_strictly(model, weights, path, partial=partial)
        check_switches(model, checkpoint, path)
        # the Runner would only warn about what does not fit, at length; and it knows this key alone
        if partial or 'state_dict' not in checkpoint:
            checkpoint['state_dict'] = weights
        if runner._resume and 'optimizer' in checkpoint:
            self._check_optimizer(runner, checkpoint['optimizer'], path)

    def before_train(self, runner: Any) -> None:
        """Refuses processes that begin at different places, as machines do that see different files."""
        name = os.path.basename(str(runner._load_from)) if runner._load_from else 'nothing'
        found = all_gather_object((name, runner.iter))
        if len(set(found)) > 1:
            (ours, step), (theirs, other) = sorted(set(found))[:2]
            raise CheckpointError(
                f'the processes do not begin alike: one loaded {ours} (iteration {step}), another {theirs} (iteration '
                f'{other}). All machines have to see the same work directory {runner.work_dir!r}'
            )

    @staticmethod
    def _check_optimizer(runner: Any, state: Dict[str, Any], path: str) -> None:
        optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
        if optimizer is None or 'param_groups' not in state:  # several optimizers, or one that is not built yet
            return
        saved, own = (
            [len(group['params']) for group in groups] for groups in (state['param_groups'], optimizer.param_groups)
        )
        if saved != own:
            raise CheckpointError(
                f'{path!r} cannot be resumed: its optimizer has {len(saved)} groups with {sum(saved)} parameters, that '
                f'of the config {len(own)} with {sum(own)}. '
                f'To start from its weights alone use load_from without resuming'
            )
