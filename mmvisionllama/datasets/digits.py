"""Handwritten digits as image folders: 1,797 real scans that scikit-learn ships, no download.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Iterable, Optional, Tuple

from ..errors import DataError, MissingExtraError

MARKER = 'digits.json'


def split_digits(test_fraction: float = 0.2, seed: int = 0):
    """The scans and their fixed, stratified split.

    Returns:
        tuple: images ``(1797, 8, 8)`` uint8, labels ``(1797,)``, indices of the training and of the test scans.

    Raises:
        MissingExtraError: Without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise MissingExtraError("the digits ship with scikit-learn: pip install 'mmvisionllama[digits]'") from error
    digits = load_digits()
    images = (digits.images * (255 / 16)).round().astype('uint8')  # 17 grey levels
    train, test = train_test_split(
        list(range(len(images))), test_size=test_fraction, random_state=seed, stratify=digits.target
    )
    return images, digits.target, sorted(train), sorted(test)


def read_marker(path: Path) -> Optional[dict]:
    """What a marker says; None if there is none, or one that was cut off while it was written."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


#: what a marker says while its folders are written
WRITING = dict(writing=True)


def clear(root: Path, marker: Path, folders: Iterable[str]) -> None:
    """Removes folders of an earlier or interrupted writing, which a marker tells, and notes that a new one begins.

    Raises:
        DataError: For folders with something in them and no marker beside them: they are somebody's own.
    """
    own = [str(root / name) for name in folders if not marker.exists() and any((root / name).glob('*'))]
    if own:
        raise DataError(
            f'{", ".join(own)} would be overwritten and was not written by this tool: give another folder or remove it'
        )
    root.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps(WRITING) + '\n')
    for name in folders:
        shutil.rmtree(root / name, ignore_errors=True)


def write_digits(root: str, test_fraction: float = 0.2, seed: int = 0) -> Tuple[int, int]:
    """Writes ``root/{train,test}/<digit>/<number>.png`` (8 x 8 grey), the layout of mmpretrain's ``CustomDataset``.

    A complete folder with the same split is left as it is; an incomplete one is written again.

    Returns:
        tuple: Number of training and of test images.

    Raises:
        DataError: If ``root`` has such folders that it did not write.
        MissingExtraError: Without scikit-learn.
    """
    root = Path(root)
    settings = dict(test_fraction=test_fraction, seed=seed)
    marker = root / MARKER
    written = read_marker(marker)
    if written and written.get('settings') == settings:
        return written['train'], written['test']
    images, labels, train, test = split_digits(test_fraction, seed)
    from PIL import Image

    clear(root, marker, ('train', 'test'))
    for name, indices in (('train', train), ('test', test)):
        for index in indices:
            folder = root / name / str(labels[index])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[index]).save(folder / f'{index:04d}.png')
    marker.write_text(json.dumps(dict(settings=settings, train=len(train), test=len(test))) + '\n')
    return len(train), len(test)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('root', nargs='?', default='data/digits', help='folder to write (default: data/digits)')
    args = parser.parse_args()
    try:
        counts = write_digits(args.root)
    except (DataError, ImportError, OSError) as error:  # no scikit-learn; no place to write
        parser.exit(1, f'error: {error}\n')
    print(f'{args.root}: {counts[0]} training and {counts[1]} test images')
