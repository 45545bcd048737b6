"""Reading configs, and where a run writes."""

import difflib
import importlib
import inspect
import os
import tempfile
from pathlib import Path
from typing import Any, Iterable, Iterator, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from ..errors import LaunchError
from ..layers.options import type_name
from ..model_zoo import shared_names
from ..requirements import extra

DOCTOR = "'python -m mmvisionllama.doctor' says how, mmcv's compiled operators included"
#: scope of a config -> what to install for it; EXTRA: of the line that is here
LIBRARIES = {
    'mmpretrain': "pip install 'mmvisionllama[EXTRA]'",
    'mmseg': "pip install 'mmvisionllama[EXTRA]'",
    'mmdet': DOCTOR,
    'mmcv': DOCTOR,
}


def missing_library(name: str) -> str:
    """Which library is missing and how to install it."""
    library = name.split('.')[0]
    return f'{name} is not installed: {LIBRARIES.get(library, f"pip install {library}").replace("EXTRA", extra())}'


def load_config(path: str, cfg_options: Optional[dict] = None) -> Config:
    """Reads a config file and applies ``--cfg-options``.

    Raises:
        LaunchError: If the file or one of its bases does not exist or cannot be read, an option does not fit it, or its
            library is not installed.
    """
    if not os.path.isfile(path):
        raise LaunchError(f'config {path!r} does not exist: check the path (the configs are listed under configs/)')
    if not path.endswith(('.py', '.json', '.yaml', '.yml')):
        raise LaunchError(f'config {path!r} is no config: expected a .py, .json or .yaml file')
    try:
        cfg = Config.fromfile(path)
    except ImportError:  # run_cli says what to install
        raise
    except Exception as error:  # a config is a program: it can raise anything
        reason = ' '.join(str(error).split()) or 'no reason given'
        raise LaunchError(f'config {path!r} cannot be read ({type(error).__name__}: {reason[:300]})') from error
    apply_options(cfg, cfg_options or {})
    check_settings(cfg)
    scope = cfg.get('default_scope')
    if scope in LIBRARIES:
        try:
            importlib.import_module(scope)
        except ModuleNotFoundError as error:
            raise LaunchError(f'this config needs {scope}: {missing_library(error.name or scope)}') from error
    return cfg


#: what is read from the top level of a config, by mmengine, its hooks and this package
SETTINGS = (
    *(name for name in inspect.signature(Runner.__init__).parameters if name not in ('self', 'cfg')),
    'activation_checkpointing',
    'compile',
    'custom_imports',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'strategy',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
    'broken_pictures',
    'load_from_partial',
    'stop_after',
)


def apply_options(cfg: Config, options: dict) -> None:
    """Merges ``--cfg-options`` into a config; raises a LaunchError for one that it has no place for."""
    for key in options:
        top = key.split('.')[0]
        if top not in cfg and top not in SETTINGS:
            raise LaunchError(f'--cfg-options {key}: the config has no {top}{_did_you_mean(top, [*cfg, *SETTINGS])}')
    try:
        cfg.merge_from_dict(options)
    except Exception as error:  # mmengine: TypeError, KeyError, AttributeError
        raise LaunchError(f'--cfg-options do not fit the config: {" ".join(str(error).split())}') from error


def check_settings(cfg: Config) -> None:
    """Raises a LaunchError for a group of settings whose name is a misspelling, which nothing would read."""
    for name in cfg:
        if isinstance(cfg[name], (dict, list)) and name not in SETTINGS:
            close = difflib.get_close_matches(name, SETTINGS, 1, 0.85)
            if close and sorted(name) == sorted(close[0]) and len(name) > 5:
                raise LaunchError(f'nothing reads {name} of the config{_did_you_mean(name, SETTINGS)}')


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1, 0.7)
    return f': did you mean {close[0]}?' if close else ''


def check_model(cfg: Config) -> dict:
    """Config of the model; raises a LaunchError where there is none, and for one of our backbones inside ``MAE``."""
    model = cfg.get('model')
    if not isinstance(model, dict) or 'type' not in model:
        raise LaunchError(f'the config has no model: expected model=dict(type=...), got {model!r}')
    # mmpretrain's MAE hands over no mask, so the backbone itself cannot tell, and unpacking its result fails
    backbone = type_name((model.get('backbone') or {}).get('type'))
    if type_name(model['type']) == 'MAE' and backbone in ('VisionLLaMA', 'PyramidVisionLLaMA', 'iLLaMA'):
        raise LaunchError(f"MAE needs a backbone that hides patches, and {backbone} does not: type='MAEVisionLLaMA'")
    return model


def check_device(name: Optional[str]) -> str:
    """The device to run on, by default a GPU if there is one.

    Raises:
        LaunchError: For a device that torch does not know or that is not here.
    """
    if name is None:
        return 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch built without CUDA
        reason = str(error).splitlines()[0]
        raise LaunchError(
            f'--device {name!r} cannot be used ({reason}): take cpu, or cuda where there is a GPU'
        ) from error
    return name


def check_target(path: str, option: str = '--out', suffixes: Iterable[str] = ()) -> None:
    """Makes the folder of a file that will be written after the work.

    Args:
        path: The file.
        option: What names it.
        suffixes: Endings that it may have; all by default.

    Raises:
        LaunchError: If the file cannot be written.
    """
    target, suffixes = Path(path), tuple(suffixes)
    if suffixes and target.suffix.lower() not in suffixes:
        raise LaunchError(f'{option} {str(path)!r}: expected a name that ends with {", ".join(suffixes)}')
    if target.is_dir():
        raise LaunchError(f'{option} {str(path)!r} is a folder: expected the name of a file')
    check_folder(target.parent, f'{option} {str(path)!r}')


def check_folder(folder: str, what: str = '--out') -> None:
    """Makes a folder, and raises a LaunchError unless files can be written there."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise LaunchError(f'{what} cannot be written ({error.strerror}): choose another place') from error


def default_work_dir(cfg: Config, config_path: str, work_dir: Optional[str]) -> str:
    """``--work-dir``, or the config's own, or ``work_dirs/`` and the config's name.

    A name that the package has for two libraries gets theirs, as in :func:`mmvisionllama.list_models`: in one folder
    the trainings would take each other's checkpoints.
    """
    path = Path(config_path).resolve()
    is_shared = path.stem in shared_names() and path.parent.parent.name in LIBRARIES
    library = f'_{path.parent.parent.name}' if is_shared else ''
    return work_dir or cfg.get('work_dir') or os.path.join('work_dirs', f'{path.stem}{library}')


def iter_datasets(dataloader: Any, name: str) -> Iterator[Tuple[str, dict]]:
    """Name and config of every dataset of files in a dataloader config, wrapped ones included."""
    if isinstance(dataloader, (list, tuple)):
        for i, item in enumerate(dataloader):
            yield from iter_datasets(item, f'{name}.{i}')
    elif isinstance(dataloader, dict):
        if 'type' in dataloader and {'data_root', 'ann_file', 'data_prefix'} & set(dataloader):
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
