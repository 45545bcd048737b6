"""Checks of the files that a data set's config names, before it is built: a table from data-set class to check."""

import inspect
import os
from pathlib import Path
from typing import Callable, Dict, Optional, Sequence

from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS

from ..errors import DataError
from .coco_files import check_categories


def dataset_class(dataset: dict, scope: Optional[str] = None) -> Optional[type]:
    """The class of a data set's config, or None where its library is not here."""
    kind = dataset['type']
    if isinstance(kind, type):
        return kind
    with DATASETS.switch_scope_and_registry(scope) as registry:
        return registry.get(kind)


def class_names(dataset: dict, scope: Optional[str] = None) -> Sequence[str]:
    """Names of the class of a data set's config and of those it inherits from."""
    cls = dataset_class(dataset, scope)
    return [str(dataset['type']).split('.')[-1]] if cls is None else [base.__name__ for base in cls.__mro__]


def check_files(dataset: dict, root: str, scope: Optional[str] = None) -> None:
    """Applies the check of the first class in :data:`CHECKS` that a data set is of.

    Args:
        dataset: Config of a data set.
        root: Its folder, which exists.
        scope: Default scope of the config.

    Raises:
        DataError: What the check found.
    """
    check = next((CHECKS[name] for name in class_names(dataset, scope) if name in CHECKS), None)
    if check is not None:
        check(dataset, root, scope)


def check_coco(dataset: dict, root: str, scope: Optional[str] = None) -> None:
    """The annotation file has the data set's classes, and in its order where mmdetection numbers them by that."""
    classes = coco_classes(dataset, scope) if dataset.get('ann_file') else None
    if classes is not None:  # V3Det's stand in a file of its own
        mro = getattr(dataset_class(dataset, scope), '__mro__', ())
        loads = next((base.__name__ for base in mro if 'load_data_list' in vars(base)), 'CocoDataset')
        is_ordered = loads == 'CocoDataset'  # Objects365's, for one, sorts the categories first
        check_categories(os.path.join(root, dataset['ann_file']), classes, is_ordered)


def check_segmentation(dataset: dict, root: str, scope: Optional[str] = None) -> None:
    """The folder of pictures has some with the data set's suffix."""
    if dataset.get('ann_file'):
        return
    suffix = dataset.get('img_suffix')
    if suffix is None:
        cls = dataset_class(dataset, scope)
        parameter = cls and inspect.signature(cls.__init__).parameters.get('img_suffix')
        if cls and not parameter:  # REFUGE's, for one, is written in its __init__
            return
        suffix = parameter.default if parameter else '.jpg'
    folder = os.path.join(root, (dataset.get('data_prefix') or {}).get('img_path') or '')
    if folder:
        check_pictures(folder, suffix)


def check_classification(dataset: dict, root: str, scope: Optional[str] = None) -> None:
    """Without a list of files there are class folders with pictures."""
    prefix = dataset.get('data_prefix') or dataset.get('split') or ''
    if dataset.get('ann_file') or dataset.get('with_label') is False:
        return
    folder = os.path.join(root, (prefix.get('img_path') or '') if isinstance(prefix, dict) else prefix)
    extensions = tuple(ending.lower() for ending in dataset.get('extensions') or PICTURES)
    is_listed = os.path.isfile(os.path.join(root, 'meta', f'{dataset.get("split")}.txt'))  # ImageNet's lists
    if is_listed or not os.path.isdir(folder):
        return
    classes = [entry.path for entry in os.scandir(folder) if entry.is_dir()]
    if not any(name.lower().endswith(extensions) for c in classes for _, _, names in os.walk(c) for name in names):
        raise DataError(
            f'{folder!r} has no class folders with pictures ({", ".join(extensions)}): expected '
            f'{os.path.join(folder, "CLASS", "NAME.png")!r}, or a list of files as ann_file'
        )


#: endings of pictures, as mmpretrain's CustomDataset has them
PICTURES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')

#: class of data sets, subclasses included -> check(config, folder, scope)
CHECKS: Dict[str, Callable[[dict, str, Optional[str]], None]] = {
    'CocoDataset': check_coco,
    'BaseSegDataset': check_segmentation,
    'CustomDataset': check_classification,
}

#: classes whose ``split`` is a folder; CIFAR's, for one, is a part of its files
SPLIT_FOLDERS = ('ImageNet', 'ImageNet21k')


def check_pictures(folder: str, suffix: str = '.jpg') -> None:
    """Raises a DataError unless a picture of the data set's ``img_suffix`` lies in the folder or below it.

    mmsegmentation takes the pictures that end with it and passes over all others without a word.
    """
    # folders behind links, too, which rglob passes over
    files = (Path(parent, name) for parent, _, names in os.walk(folder, followlinks=True) for name in names)
    others = set()
    for path in files:
        if path.name.endswith(suffix):
            return
        others.add(path.suffix)
    found = f'its files end with {", ".join(sorted(others)[:8])}' if others else 'it is empty'
    raise DataError(
        f'{folder!r} has no picture that ends with {suffix!r}, {found}: check the folder, or say the suffix with '
        f"img_suffix='...' in the data set"
    )


def coco_classes(dataset: dict, scope: Optional[str] = None) -> Optional[Sequence[str]]:
    """Names of the classes of an mmdetection data set's config, in the order of their labels; None if nothing says."""
    classes = (dataset.get('metainfo') or {}).get('classes')
    if classes is None:
        cls = dataset_class(dataset, scope or 'mmdet')
        classes = cls.METAINFO['classes']
    if not isinstance(classes, str):
        return classes
    try:
        return list_from_file(classes)
    except FileNotFoundError as error:  # mmdetection would take every part of the word for the name of a class
        raise DataError(
            f'metainfo.classes is {classes!r}, and there is no such file of names: of one class write '
            f'classes=({classes!r},), with a comma'
        ) from error
