"""Opens a trained classifier and its test data for an analysis."""

from typing import Iterable, Optional, Tuple

from mmengine.config import Config
from torch import nn

from ..checkpoints.loading import check_switches, load_strictly
from ..checkpoints.reading import find_state_dict, read_checkpoint
from ..errors import LaunchError
from ..layers.options import type_name
from . import config
from .runner import build_runner
from .testing import prepare_test


def load_config(path: str, cfg_options: Optional[dict] = None) -> Config:
    """Reads the config of a classifier and sets its ``work_dir``.

    Args:
        path: Config file.
        cfg_options: Settings to override.

    Raises:
        LaunchError: If there is no such config, or it is not one of a classifier with a test set.
    """
    cfg = config.load_config(path, cfg_options)
    model = type_name((cfg.get('model') or {}).get('type'))
    if cfg.get('default_scope') != 'mmpretrain' or model != 'ImageClassifier':
        raise LaunchError(
            f'{path!r} builds a {model} (default_scope {cfg.get("default_scope")}), and this analysis takes '
            f'classification configs: default_scope mmpretrain, model ImageClassifier'
        )
    if not cfg.get('test_dataloader'):
        raise LaunchError(f'{path!r} has no test_dataloader: there are no images to analyse')
    cfg.work_dir = config.default_work_dir(cfg, path, None)
    return cfg


def open_classifier(cfg: Config, checkpoint: str) -> Tuple[nn.Module, Iterable]:
    """Model and test data of a classification config.

    Args:
        cfg: Config from :func:`load_config`.
        checkpoint: Weights.

    Returns:
        tuple: The model in evaluation mode on its device, and the data loader.

    Raises:
        LaunchError: If the data is missing.
        CheckpointError: If the checkpoint cannot be read or does not fit the config.
    """
    cfg.log_level = 'WARNING'
    runner = build_runner(prepare_test(cfg, checkpoint))
    # the Runner loads only when it tests
    stored = read_checkpoint(checkpoint)
    load_strictly(runner.model, find_state_dict(stored), checkpoint)
    check_switches(runner.model, stored, checkpoint)
    return runner.model.eval(), runner.build_dataloader(cfg.test_dataloader)
