"""Checks of annotation files in COCO's format before a training starts."""

import json
import mmap
from typing import List, Sequence

from ..errors import DataError


def read_categories(ann_file: str) -> List[str]:
    """Names of the categories of an annotation file, in its order.

    Reads the list of categories alone where it can: parsing all of COCO's file takes ten seconds.

    Raises:
        DataError: If the file is no annotation file in COCO's format.
    """
    try:
        with open(ann_file, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start = data.rfind(b'"categories"')
            tail = data[start + len(b'"categories"') :].decode() if start >= 0 else ''
            try:
                categories = json.JSONDecoder().raw_decode(tail.lstrip(' \t\r\n:'))[0]
            except json.JSONDecodeError:
                categories = json.loads(data[:])['categories']
        return [category['name'] for category in categories]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{ann_file!r} is no annotation file in COCO's format ({type(error).__name__}: {error}): expected JSON "
            f'with images, annotations and categories'
        ) from error


def check_categories(ann_file: str, classes: Sequence[str], is_ordered: bool = True) -> None:
    """Raises a DataError unless the classes of a data set are categories of the file, in the file's order.

    mmdetection numbers the categories that it finds in the file's order and does not look further: a category missing
    there, or another order, would silently give every later class a wrong label.

    Args:
        ann_file: Annotation file in COCO's format.
        classes: ``metainfo.classes`` of the data set.
        is_ordered: Whether the order matters; some data sets have their own way of loading.
    """
    known = read_categories(ann_file)
    missing = [name for name in classes if name not in known]
    if missing:
        found = ', '.join(map(repr, known[:8])) + (', ...' if len(known) > 8 else '')
        raise DataError(
            f'{ann_file!r} lacks {len(missing)} of the {len(classes)} categories of this config '
            f'({", ".join(map(repr, missing[:8]))}{", ..." if len(missing) > 8 else ""}); it has {found}. List them in '
            f'the file even if no image shows one, or say with metainfo=dict(classes=(...)) in every data set, and '
            f"num_classes in the heads, which of the file's are meant"
        )
    order = [name for name in known if name in classes]
    if is_ordered and order != list(classes):
        raise DataError(
            f"{ann_file!r} lists the categories in another order than the config's classes, and mmdetection would mix "
            f'up their names: give metainfo=dict(classes={tuple(order)})'
        )
