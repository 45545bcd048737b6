"""Checks of what a config and the command line name, before anything is built."""

import inspect
import os
from collections import Counter
from pathlib import Path
from typing import Any, Optional, Sequence, Tuple

from mmengine.config import Config

from ..backbones.base import is_pretrained
from ..checkpoints.reading import local_file, read_checkpoint
from ..checkpoints.sharded import is_sharded
from ..datasets.checks import SPLIT_FOLDERS, check_files, class_names, dataset_class
from ..errors import LaunchError
from .config import iter_datasets


def check_data(cfg: Config, splits: Tuple[str, ...] = ('train', 'val')) -> None:
    """Raises a LaunchError for a data folder that does not exist.

    Args:
        cfg: Config with ``{split}_dataloader`` entries.
        splits: The splits that will be read.

    Raises:
        DataError: For a COCO file whose categories are not the data set's classes, and for a folder without a picture
            for a segmentation.
    """
    scope = cfg.get('default_scope')
    for split in splits:
        for name, dataset in iter_datasets(cfg.get(f'{split}_dataloader'), f'{split}_dataloader'):
            root = dataset.get('data_root') or ''
            if '://' in root or (not root and _downloads(dataset, scope)):
                continue
            if root and not os.path.isdir(root):
                if _downloads(dataset, scope):
                    continue
                raise LaunchError(
                    f'the data folder {root!r} does not exist: put the data there, link it, or say where it is with '
                    f'--cfg-options {name}.data_root=FOLDER'
                )
            is_split = any(name in SPLIT_FOLDERS for name in class_names(dataset, scope))
            split_folder = dataset.get('split') if is_split else ''
            prefix = dataset.get('data_prefix') or split_folder or ''
            prefixes = prefix.values() if isinstance(prefix, dict) else [prefix]
            annotations = dataset.get('ann_file')
            for part in [*prefixes, annotations]:
                path = os.path.join(root, part) if isinstance(part, str) and '://' not in part else ''
                if path and not os.path.exists(path):
                    # ImageNet's split may be a folder, or a list in meta/ over images that lie side by side
                    if part == split_folder and os.path.exists(os.path.join(root, 'meta', f'{part}.txt')):
                        continue
                    raise LaunchError(
                        f'{path!r}, which {name} of the config names, does not exist: check '
                        + (f'the layout of the data folder {root!r}' if root else 'the path')
                    )
            if not any(isinstance(part, str) and '://' in part for part in [*prefixes, annotations]):
                check_files(dataset, root, scope)
        evaluators = cfg.get(f'{split}_evaluator') or []
        for evaluator in [evaluators] if isinstance(evaluators, dict) else evaluators:
            annotations = evaluator.get('ann_file')
            if annotations and '://' not in annotations and not os.path.exists(annotations):
                raise LaunchError(
                    f'the annotation file {annotations!r} of {split}_evaluator does not exist: it has to be the one of '
                    f'{split}_dataloader, --cfg-options {split}_evaluator.ann_file=FILE'
                )


def _downloads(dataset: dict, scope: Optional[str]) -> bool:
    """Whether the data set makes its own folder, as mmpretrain's CIFAR10 and MNIST do by default."""
    cls = dataset_class(dataset, scope)
    option = cls and inspect.signature(cls).parameters.get('download')
    return bool(option) and bool(dataset.get('download', option.default))


def check_names(images: Sequence[str]) -> None:
    """Raises a LaunchError for two pictures of one name: what is written about them would be one file."""
    counts = Counter(Path(image).stem for image in images)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise LaunchError(f'several pictures are named {", ".join(twice)}: run once for each, with an --out of its own')


def check_checkpoint(path: str, read: bool = True) -> str:
    """Fetches a checkpoint if it is an address, and reads it unless told otherwise.

    Returns:
        str: The local file.

    Raises:
        CheckpointError: For a file that is missing, damaged or holds more than weights.
    """
    if read:
        read_checkpoint(path)
    return local_file(path)


def check_pretrained(model: Any, name: str = 'model') -> None:
    """Raises a LaunchError for pre-trained weights that the model's config names and that are not there.

    Args:
        model: Config of a model or of a part of it.
        name: Its name in the whole config.
    """
    if isinstance(model, (list, tuple)):
        for i, part in enumerate(model):
            check_pretrained(part, f'{name}.{i}')
    if not isinstance(model, dict):
        return
    init_cfg = model.get('init_cfg')
    # a codec's is a folder or a hub's name, which diffusers reads
    pretrained = None if name.endswith('.codec') else model.get('pretrained')
    named = [(f'{name}.pretrained', pretrained, f'{name}.pretrained')]
    for cfg in init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]:
        if isinstance(cfg, dict) and is_pretrained(cfg):
            named.append((f'{name}.init_cfg.checkpoint', cfg.get('checkpoint'), f'{name}.init_cfg'))
    for option, path, whole in named:
        if not isinstance(path, str) or '://' in path:
            continue
        file = os.path.expanduser(path)
        if not os.path.isfile(file) and not is_sharded(file):
            raise LaunchError(
                f'the pre-trained weights {path!r} do not exist: say where they are with --cfg-options {option}=FILE, '
                f'or train without with {whole}=None'
            )
    for key, part in model.items():
        check_pretrained(part, f'{name}.{key}')
