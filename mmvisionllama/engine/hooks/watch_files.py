"""Keeps broken files of the training data named, or passed over, when their pipeline is exchanged."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.utils.data import Dataset

from ...datasets.blame import watch_files


@HOOKS.register_module()
class WatchFilesHook(Hook):
    """Watches the training data's pipelines, those too that another hook puts in their place.

    mmdet's ``PipelineSwitchHook`` and mmpretrain's ``SwitchRecipeHook`` do. The Runner adds it.

    Args:
        on_error: ``'raise'`` or ``'skip'``, see :func:`mmvisionllama.datasets.blame.watch_files`.
    """

    priority = 'LOWEST'

    def __init__(self, on_error: str = 'raise') -> None:
        skips = on_error == 'skip'
        self.skipped = torch.zeros((), dtype=torch.int64).share_memory_() if skips else None

    def watch(self, dataset: Dataset) -> None:
        """Pipelines that are watched already stay."""
        watch_files(dataset, self.skipped)

    def before_train_epoch(self, runner: Any) -> None:
        """After the hooks that exchange a pipeline, before the processes that load with it."""
        self.watch(runner.train_dataloader.dataset)
