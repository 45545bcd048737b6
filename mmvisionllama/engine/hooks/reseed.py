"""Random numbers that depend on the seed and the position in the training alone, so that resuming is exact."""

import random
from itertools import islice
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..epoch_length import ITERATIONS, fit_epoch_length


def seed_all(*key: int, devices: bool = True) -> None:
    """Seeds Python, numpy and torch with independent numbers derived from ``key``.

    Args:
        devices: Also torch's generators of the GPUs.
    """
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    seed = int(words[2]) << 32 | int(words[3])
    if devices:
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


class PositionedBatch(list):
    """Indices of a batch, and its position in the training as (epoch, number)."""

    position: Tuple[int, int]


class PositionedBatches:
    """A batch sampler whose batches know their position and whose next iteration can begin further on."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches
        self.epoch = 0
        #: of the next batch
        self.number = 0
        #: batches that the next iteration leaves out
        self.skip = 0

    def __iter__(self) -> Iterator[PositionedBatch]:
        skip, self.skip = self.skip, 0
        for indices in islice(self.batches, skip, None):
            batch = PositionedBatch(indices)
            batch.position = (self.epoch, self.number)
            self.number += 1
            yield batch

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str) -> Any:
        if name == 'batches':  # copies are made without __init__
            raise AttributeError(name)
        return getattr(self.batches, name)


class SeededLoading:
    """Loads the samples of a batch, with random numbers derived from ``(*key, *position)``.

    As a data set's ``__getitems__``, which torch's loaders prefer, in whatever process loads the batch; or as the data
    set itself where it takes no attributes.
    """

    def __init__(self, dataset: Any, *key: int) -> None:
        self.dataset = dataset
        self.load = getattr(dataset, '__getitems__', None)
        self.key = key

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def __getitems__(self, batch: Sequence[int]) -> List[Any]:
        return self(batch)

    def __call__(self, batch: Sequence[int]) -> List[Any]:
        if isinstance(batch, PositionedBatch):
            seed_all(*self.key, *batch.position, devices=False)
        return self.load(batch) if self.load else [self.dataset[i] for i in batch]


@HOOKS.register_module()
class ReseedHook(Hook):
    """Makes a resumed training equal to an uninterrupted one, whatever iteration it was interrupted at.

    mmengine restores weights, optimizer, schedules and the order of the data, but no random states: dropout, mixing and
    augmentations differ after a resume, and without a fixed seed the order does too. Worker processes cannot even be
    asked for theirs. So here every iteration starts from random numbers that depend on (seed, rank, iteration) alone,
    and every batch is loaded with numbers that depend on (seed, rank, position of the batch) alone, by any worker.

    Training by epoch, mmengine would begin an epoch from its start again; here it goes on behind the last batch that
    the checkpoint has seen.

    What is exact: resuming from any checkpoint, on as many processes; the number of workers does not matter. In
    iteration-based training the order of the data is mmengine's to restore. On another number of processes, or with
    another batch, an epoch goes on behind as many samples, and counters and schedules by epoch are those of a training
    that has had as many iterations in an epoch from its start. Not exact: what a data set keeps from earlier samples,
    such as mmdet's ``CachedMosaic``, and gradients accumulated before the checkpoint.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._batches: Any = None
        self._samples_done = 0
        self._epoch = self._first_iter = 0

    def after_load_checkpoint(self, runner, checkpoint: Dict[str, Any]) -> None:
        """How far the epoch had come; counters and schedules follow where it has other iterations now."""
        if runner._resume:
            self._samples_done = checkpoint['meta'].get('samples_of_epoch', 0)
            if not self._by_iter(runner):
                fit_epoch_length(runner, checkpoint, self._samples_done // self._samples_per_iter(runner))

    def before_save_checkpoint(self, runner, checkpoint: Dict[str, Any]) -> None:
        """Notes how far this epoch has come, if the checkpoint is not one of its end."""
        meta = checkpoint['meta']
        if self._by_iter(runner):
            return
        meta[ITERATIONS] = len(runner.train_dataloader)
        if self._batches is not None and meta['epoch'] == self._epoch:
            meta['samples_of_epoch'] = (meta['iter'] - self._first_iter) * self._samples_per_iter(runner)

    def before_train(self, runner) -> None:
        """Takes over the batches and gives the sampler the run's seed, which on resume is the checkpoint's."""
        loader = runner.train_dataloader
        sampler = getattr(loader.batch_sampler, 'sampler', loader.sampler)
        fixed = (runner.cfg.get('train_dataloader') or {}).get('sampler') or {}
        if hasattr(sampler, 'seed') and not (isinstance(fixed, dict) and fixed.get('seed') is not None):
            sampler.seed = self._seed(runner)
        if loader.batch_sampler is not None and self._batches is None:
            self._batches = PositionedBatches(loader.batch_sampler)
            object.__setattr__(loader, 'batch_sampler', self._batches)  # a DataLoader refuses plain assignment
            loading = SeededLoading(loader.dataset, self._seed(runner), get_rank())
            try:
                loader.dataset.__getitems__ = loading
            except AttributeError:  # a list
                object.__setattr__(loader, 'dataset', loading)

    def before_train_epoch(self, runner) -> None:
        """Start or continuation of an epoch, by iteration of the whole training."""
        self._epoch, self._first_iter = runner.epoch, runner.iter
        if self._batches is None:
            return
        if self._by_iter(runner):
            self._batches.number = runner.iter if self._skips_indices(runner) else 0
            return
        done = min(self._samples_done // self._samples_per_iter(runner), len(runner.train_dataloader))
        self._samples_done = 0
        self._first_iter -= done
        self._batches.epoch, self._batches.number, self._batches.skip = runner.epoch, done, done

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Nothing drawn before, such as in a validation, matters."""
        seed_all(self._seed(runner), get_rank(), runner.iter)

    @staticmethod
    def _by_iter(runner) -> bool:
        return hasattr(runner.train_loop, 'dataloader_iterator')

    @staticmethod
    def _skips_indices(runner) -> bool:
        """Whether mmengine resumes by positioning the sampler; otherwise it draws the batches once more."""
        iterator = runner.train_loop.dataloader_iterator
        if getattr(runner.train_loop, 'fast_forward_on_resume', False):
            return True
        return bool(
            hasattr(iterator, '_resolve_sampler') and iterator._resolve_sampler() and runner.train_dataloader.batch_size
        )

    @staticmethod
    def _samples_per_iter(runner) -> int:
        loader = runner.train_dataloader
        return (loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None) or 1) * get_world_size()

    @staticmethod
    def _seed(runner) -> int:
        """The run's seed; with ``diff_rank_seed`` mmengine adds the rank to it."""
        return runner.seed - (get_rank() if runner._randomness_cfg.get('diff_rank_seed') else 0)
