"""Reading configs, and where a run writes."""

import importlib
import os
from pathlib import Path
from typing import Any, Iterator, Optional, Tuple

import torch
from mmengine.config import Config

from ..errors import LaunchError

#: scope of a config -> what to install for it
LIBRARIES = {
    'mmpretrain': "pip install 'mmvisionllama[onedl]'",
    'mmseg': "pip install 'mmvisionllama[onedl]'",
    'mmdet': "pip install --no-build-isolation 'mmvisionllama[onedl]' (mmdet needs mmcv's compiled operators)",
}


def missing_library(name: str) -> str:
    """Which library is missing and how to install it."""
    return f'{name} is not installed: {LIBRARIES.get(name.split(".")[0], f"pip install {name}")}'


def load_config(path: str, cfg_options: Optional[dict] = None) -> Config:
    """Reads a config file and applies ``--cfg-options``.

    Raises:
        LaunchError: If the file does not exist, is no Python, JSON or YAML file, or its library is not installed.
    """
    if not os.path.isfile(path):
        raise LaunchError(f'config {path!r} does not exist: check the path (the configs are listed under configs/)')
    if not path.endswith(('.py', '.json', '.yaml', '.yml')):
        raise LaunchError(f'config {path!r} is no config: expected a .py, .json or .yaml file')
    cfg = Config.fromfile(path)
    if cfg_options:
        cfg.merge_from_dict(cfg_options)
    scope = cfg.get('default_scope')
    if scope in LIBRARIES:
        try:
            importlib.import_module(scope)
        except ModuleNotFoundError as error:
            raise LaunchError(f'this config needs {scope}: {missing_library(error.name or scope)}') from error
    return cfg


def default_work_dir(cfg: Config, config_path: str, work_dir: Optional[str]) -> str:
    """``--work-dir``, or the config's own, or ``work_dirs/`` and the config's name."""
    return work_dir or cfg.get('work_dir') or os.path.join('work_dirs', Path(config_path).stem)


def iter_datasets(dataloader: Any, name: str) -> Iterator[Tuple[str, dict]]:
    """Name and config of every dataset in a dataloader config, wrapped ones included."""
    if isinstance(dataloader, (list, tuple)):
        for i, item in enumerate(dataloader):
            yield from iter_datasets(item, f'{name}.{i}')
    elif isinstance(dataloader, dict):
        if 'type' in dataloader and 'data_root' in dataloader:
            yield name, dataloader
        for key in ('dataset', 'datasets'):
            if key in dataloader:
                yield from iter_datasets(dataloader[key], f'{name}.{key}')


def prepare_dataloaders(cfg: Config) -> None:
    """Fills in what mmpretrain's own scripts fill in: batches are stacked tensors, not lists."""
    for split in ('train', 'val', 'test'):
        dataloader = cfg.get(f'{split}_dataloader')
        if dataloader and cfg.get('default_scope') == 'mmpretrain':
            dataloader.setdefault('collate_fn', dict(type='default_collate'))
            dataloader.setdefault('pin_memory', torch.cuda.is_available())
