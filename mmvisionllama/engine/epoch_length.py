"""Going on with other iterations in an epoch: on more or fewer processes, or with another batch."""

import warnings
from typing import Any, Dict, Optional

#: the checkpoint's entry
ITERATIONS = 'iterations_of_epoch'


def _before(meta: Dict[str, Any]) -> Optional[int]:
    """Iterations of the checkpoint's epochs; those of other writers say it at the end of an epoch alone."""
    if ITERATIONS in meta:
        return meta[ITERATIONS]
    if meta.get('epoch') and not meta.get('samples_of_epoch') and meta['iter'] % meta['epoch'] == 0:
        return meta['iter'] // meta['epoch']
    return None


def fit_epoch_length(runner: Any, checkpoint: Dict[str, Any], done: int) -> None:
    """Moves counter and schedules of a checkpoint to the iterations that an epoch has now, in place.

    mmengine restores both in iterations of the checkpoint: schedules that count iterations would end too early, with
    the rest of the training at a rate of 0, or not at all. Here they are stepped from their start through the epochs
    that are over, and rates are what they would be, had the training begun like this.

    Args:
        runner: In training by epoch, with its schedules built and the checkpoint not yet restored.
        checkpoint: What is resumed.
        done: Iterations of the unfinished epoch that are over, in today's count.
    """
    meta, now = checkpoint['meta'], len(runner.train_dataloader)
    before = _before(meta)
    if before in (None, now):
        return
    epoch, done = meta['epoch'], min(done, now)  # the last batch of an epoch may be incomplete
    meta['iter'] = epoch * now + done
    schedules = runner.param_schedulers
    message = (
        f'the checkpoint has {before} iterations in an epoch and this training {now}: it goes on after {meta["iter"]}'
    )
    if isinstance(schedules, dict) or any(getattr(each, 'need_val_args', False) for each in schedules or ()):
        runner.logger.warning(
            f'{message}; schedules of several optimizers, and those that wait for scores, stay as they were'
        )
        return
    runner.logger.warning(f'{message}, with the rates that the config has there for its batch')
    state = checkpoint.get('optimizer', {})
    # mmengine adds a group to the optimizer's where there are several
    base = [state[key] for key in ('base_param_settings',) if key in state]
    groups, saved_groups = runner.optim_wrapper.param_groups, [*state.get('param_groups', ()), *base]
    if not schedules or 'param_schedulers' not in checkpoint or len(groups) != len(saved_groups):
        return  # another optimizer is refused elsewhere
    by_iter = [each for each in schedules if not each.by_epoch]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # that no step of the optimizer comes between
        for number in range(epoch + 1):
            for _ in range(now if number < epoch else done):
                for each in by_iter:
                    each.step()
            for each in schedules:
                if number < epoch and each.by_epoch:
                    each.step()
    del checkpoint['param_schedulers']  # built and in their places
    for group, saved in zip(groups, saved_groups):
        for name in {each.param_name for each in schedules}:
            # Adam keeps its momentum among the betas
            saved.update(
                {key: group[key] for key in (name, f'initial_{name}', 'betas') if key in group and key in saved}
            )
