"""Hooks of generation: pictures during training, and the random state in checkpoints."""

import os.path as osp
import random
from typing import Any, Dict, Optional, Sequence, Union

import numpy as np
import torch
from mmengine.dist import all_gather_object, barrier, get_rank, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from .pictures import image_grid, save_picture


@HOOKS.register_module()
class SampleHook(Hook):
    """Writes a grid of sampled images every so often: ``<work_dir>/samples/iter_<n>.png``, one row per class.

    The noise is the same every time, so the pictures show one set of samples developing. With an ``EMAHook`` the
    averaged weights are used. Nothing of the training's random state is touched.

    Args:
        interval: Iterations between pictures.
        classes: Classes that are shown.
        per_class: Images of each.
        cfg_scale: Guidance of the pictures; by default the model's.
        sampler: Sampler of the pictures; by default the model's.
        batch_size: Images sampled at once.
        min_side: Small pictures are enlarged to this many pixels.
    """

    priority = 'LOW'

    def __init__(
        self,
        interval: int = 10000,
        classes: Sequence[int] = tuple(range(8)),
        per_class: int = 8,
        cfg_scale: Optional[float] = None,
        sampler: Optional[Union[dict, str]] = None,
        batch_size: int = 64,
        min_side: int = 512,
    ) -> None:
        self.interval = interval
        self.labels = [label for label in classes for _ in range(per_class)]
        self.per_class = per_class
        self.options = dict(cfg_scale=cfg_scale, sampler=sampler)
        self.batch_size = batch_size
        self.min_side = min_side

    def before_train(self, runner) -> None:
        """Reads the VAE now: a wrong path should not wait for the first picture."""
        if is_main_process():
            _bare(runner.model).codec.load()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if not self.every_n_train_iters(runner, self.interval):
            return
        if is_main_process():
            averaged = [hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook)]
            model = averaged[0] if averaged else _bare(runner.model)
            images = [
                model.sample(self.labels[i : i + self.batch_size], indices=self._indices(i), **self.options)
                for i in range(0, len(self.labels), self.batch_size)
            ]
            path = osp.join(runner.work_dir, 'samples', f'iter_{runner.iter + 1:07d}.png')
            save_picture(path, image_grid(torch.cat(images), self.per_class), self.min_side)
            runner.logger.info(f'samples written to {path}')
        barrier()

    def _indices(self, start: int) -> range:
        return range(start, min(start + self.batch_size, len(self.labels)))


def _bare(model):
    return model.module if is_model_wrapper(model) else model


def random_state() -> Dict[str, Any]:
    """State of the generators of torch, numpy and Python, of types that weights-only loading accepts."""
    name, keys, *rest = np.random.get_state()
    state = dict(
        torch=torch.get_rng_state(),
        numpy=(name, torch.from_numpy(keys.astype(np.int64)), *rest),
        python=random.getstate(),
    )
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Dict[str, Any]) -> None:
    """Puts back what :func:`random_state` returned."""
    torch.set_rng_state(state['torch'].cpu())
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    random.setstate(state['python'])
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Stores every process's random state in checkpoints and puts it back when training is resumed.

    mmengine stores the seed only. With this hook, a data set without randomness of its own and a sampler that can skip
    (``InfiniteSampler``), a resumed run repeats the uninterrupted one exactly.
    """

    priority = 'LOW'  # before CheckpointHook

    def __init__(self) -> None:
        self._gathered = None
        self._resumed = None

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        # saving happens in the main process alone: what the others add must be collected before
        savers = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook) and not hook.by_epoch]
        if any(self.every_n_train_iters(runner, hook.interval) for hook in savers) or self.is_last_train_iter(runner):
            self._gathered = all_gather_object(random_state())

    def after_train_epoch(self, runner) -> None:
        if any(isinstance(hook, CheckpointHook) and hook.by_epoch for hook in runner.hooks):
            self._gathered = all_gather_object(random_state())

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        if self._gathered is not None:
            checkpoint['random_state'] = self._gathered
            self._gathered = None

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if not runner._resume:
            return
        states, rank = checkpoint.get('random_state'), get_rank()
        if states is None or len(states) != get_world_size():
            runner.logger.warning(
                f'the checkpoint has the random state of {len(states or ())} processes and this run has '
                f'{get_world_size()}: randomness starts from the seed'
            )
        else:
            self._resumed = states[rank]

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if self._resumed is not None:
            set_random_state(self._resumed)
            self._resumed = None
