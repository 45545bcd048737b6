"""Random numbers that depend on the seed and the position in the training alone, so that resuming is exact."""

import random
from typing import Any, Callable, Optional

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS


def seed_all(*key: int) -> None:
    """Seeds Python, numpy and torch (every device) with independent numbers derived from ``key``."""
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]) << 32 | int(words[3]))


class SeededWorkers:
    """``worker_init_fn`` that seeds worker ``i`` of a data loader from ``(*key, i)``."""

    def __init__(self, init_fn: Optional[Callable[[int], None]], *key: int) -> None:
        self.init_fn = init_fn
        self.key = key

    def __call__(self, worker_id: int) -> None:
        if self.init_fn is not None:
            self.init_fn(worker_id)
        seed_all(*self.key, worker_id)


@HOOKS.register_module()
class ReseedHook(Hook):
    """Makes a resumed training equal to an uninterrupted one.

    mmengine restores weights, optimizer, schedules and the order of the data, but no random states: dropout, mixing and
    augmentations differ after a resume, and without a fixed seed the order does too. Worker processes cannot even be
    asked for theirs. So every epoch, here, starts from random numbers that depend on (seed, rank, epoch) alone, in the
    main process and in freshly started workers. Ranks and epochs get different numbers; mmengine gives every epoch's
    workers, and the main processes of all ranks, the same.

    In iteration-based training the same happens at every checkpoint (after iteration i: seed, rank, i), provided that
    the sampler can be positioned (``InfiniteSampler.skip``, onedl-mmengine 0.10.12 or later) and makes the batches
    itself; otherwise resuming restores the order of the data only.

    What is exact: resuming from a checkpoint at the end of an epoch (by epoch) or written by the checkpoint hook's
    interval (by iteration), on as many processes, with as many workers.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._init_fn: Any = None
        self._boundary: Optional[int] = None

    def before_train(self, runner) -> None:
        """Takes over the workers' start and gives the sampler the run's seed, which on resume is the checkpoint's."""
        loader = runner.train_dataloader
        self._init_fn = loader.worker_init_fn
        sampler = getattr(loader.batch_sampler, 'sampler', loader.sampler)
        fixed = (runner.cfg.get('train_dataloader') or {}).get('sampler') or {}
        if hasattr(sampler, 'seed') and not (isinstance(fixed, dict) and fixed.get('seed') is not None):
            sampler.seed = self._seed(runner)

    def before_train_epoch(self, runner) -> None:
        """Start of an epoch; in iteration-based training, start or resumption of the whole."""
        self._reseed(runner, runner.iter if self._by_iter(runner) else runner.epoch)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Iteration-based training starts afresh at every checkpoint, as a resumed one does."""
        if not self._by_iter(runner) or not self._saves_now(runner):
            return
        loader = runner.train_dataloader
        if not hasattr(loader.sampler, 'skip') or not loader.batch_size:
            return
        done = runner.iter + 1
        runner.train_loop.dataloader_iterator.skip_iter(done)  # batches fetched ahead are fetched again
        self._boundary = done
        self._reseed(runner, done)

    def after_val(self, runner) -> None:
        """A validation between a checkpoint and the next iteration draws numbers, which a resumed run does not."""
        if self._boundary is not None and runner.iter == self._boundary:
            self._reseed(runner, self._boundary)

    @staticmethod
    def _by_iter(runner) -> bool:
        return hasattr(runner.train_loop, 'dataloader_iterator')

    @staticmethod
    def _saves_now(runner) -> bool:
        return any(
            isinstance(hook, CheckpointHook)
            and not hook.by_epoch
            and hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
            for hook in runner.hooks
        )

    @staticmethod
    def _seed(runner) -> int:
        """The run's seed; with ``diff_rank_seed`` mmengine adds the rank to it."""
        return runner.seed - (get_rank() if runner._randomness_cfg.get('diff_rank_seed') else 0)

    def _reseed(self, runner, position: int) -> None:
        key = (self._seed(runner), get_rank(), position)
        loader = runner.train_dataloader
        if loader.num_workers:
            loader.worker_init_fn = SeededWorkers(self._init_fn, *key)
            loader._iterator = None  # persistent workers would carry their random state on
        seed_all(*key)
