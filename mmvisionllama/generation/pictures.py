"""Writing sampled images: grids to look at, and the .npz file that evaluation suites read."""

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Dict, Iterator, Optional, Sequence, Tuple

import numpy as np
from torch import Tensor

from ..errors import DataError

#: endings of the pictures that are written
PICTURES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif', '.tiff')


def image_grid(images: Tensor, columns: int, pad: int = 2) -> np.ndarray:
    """Images ``(B, 1 | 3, height, width)``, uint8, row by row in one picture ``(H, W, 3)`` on white."""
    images = images.cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    grid = np.full((rows * (height + pad) + pad, columns * (width + pad) + pad, 3), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = pad + (i // columns) * (height + pad), pad + (i % columns) * (width + pad)
        grid[top : top + height, left : left + width] = image
    return grid


def save_picture(path: str, picture: np.ndarray, min_side: int = 0) -> None:
    """Writes ``(H, W, 3)`` uint8 to an image file, small ones enlarged by a whole factor to ``min_side`` pixels."""
    from PIL import Image

    factor = max(1, -(-min_side // max(picture.shape[:2])))
    picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


class SampleFile:
    """A set of samples ``(N, height, width, 3)`` uint8 that several processes fill, each sample at its own index.

    The processes write to one array on a shared disk; :meth:`finish` turns it into the ``.npz`` with the key
    ``arr_0`` that the usual evaluation suite of the field (ADM's, the paper's [21]) reads. Until then the samples of a
    run that was stopped are kept, and a run with the same description goes on with them.

    Args:
        path: File to write, ending in ``.npz``.
        shape: ``(N, height, width, 3)`` in the process that creates the file; None in the others, which open it then.
        run: What the samples depend on, as JSON can hold it. Without it every run begins from nothing.

    Attributes:
        made: ``(N,)`` bool, which samples are written.

    Raises:
        ValueError: If the name does not end in ``.npz``.
    """

    def __init__(self, path: str, shape: Optional[Sequence[int]] = None, run: Optional[Dict] = None) -> None:
        self.path = Path(path)
        if self.path.suffix != '.npz':
            raise ValueError(f'samples are written to a .npz file, got {str(path)!r}')
        self.array_path = self.path.with_suffix('.partial.npy')
        self.made_path = self.path.with_suffix('.partial.made.npy')
        self.run_path = self.path.with_suffix('.partial.json')
        if shape is not None and not self._is_of(run, shape):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.run_path.unlink(missing_ok=True)  # first out and last in: it vouches for the other two
            np.lib.format.open_memmap(self.array_path, mode='w+', dtype=np.uint8, shape=tuple(shape))
            np.lib.format.open_memmap(self.made_path, mode='w+', dtype=np.bool_, shape=(shape[0],))
            if run is not None:
                self.run_path.write_text(json.dumps(run, indent=1), encoding='utf-8')
        self.array = np.lib.format.open_memmap(self.array_path, mode='r+')
        self.made = np.lib.format.open_memmap(self.made_path, mode='r+')

    def _is_of(self, run: Optional[Dict], shape: Sequence[int]) -> bool:
        """Whether the files that are there are of this run and whole."""
        if run is None or not self.run_path.is_file():
            return False
        try:
            same = json.loads(self.run_path.read_text(encoding='utf-8')) == json.loads(json.dumps(run))
            sizes = [np.load(path, mmap_mode='r').shape for path in (self.array_path, self.made_path)]
        except (OSError, ValueError, EOFError):
            return False
        return same and sizes == [tuple(shape), (shape[0],)]

    def write(self, indices: Sequence[int], images: Tensor) -> None:
        """Puts images ``(B, 1 | 3, height, width)`` at their indices."""
        images = images.cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
        for index, image in zip(indices, images):
            self.array[index] = image
        self.array.flush()  # a sample counts as made only when it is on the disk
        self.made[list(indices)] = True

    def flush(self) -> None:
        """Call in every process before one of them calls :meth:`finish`."""
        self.array.flush()
        self.made.flush()

    def finish(self) -> None:
        """Packs the array; call in one process, after all have flushed."""
        del self.array, self.made
        partial = self.path.with_suffix('.partial.npz')
        with (
            zipfile.ZipFile(partial, 'w', zipfile.ZIP_STORED) as archive,
            open(self.array_path, 'rb') as source,
            archive.open('arr_0.npy', 'w', force_zip64=True) as target,
        ):
            shutil.copyfileobj(source, target, 1 << 24)
        os.replace(partial, self.path)
        for path in (self.run_path, self.made_path, self.array_path):
            path.unlink(missing_ok=True)


def npz_header(path: str, key: str = 'arr_0') -> Tuple[Tuple[int, ...], np.dtype]:
    """Shape and dtype of an array in a ``.npz`` file, without reading it.

    Raises:
        DataError: If the file is no such archive or has no such array.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f'{key}.npy') as file:
            return _header(file)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f'{str(path)!r} is no .npz file with an array {key}') from error


def iterate_npz(path: str, batch_size: int, key: str = 'arr_0') -> Iterator[np.ndarray]:
    """Batches of rows of an array in a ``.npz`` file, never the whole of it."""
    with zipfile.ZipFile(path) as archive, archive.open(f'{key}.npy') as file:
        shape, dtype = _header(file)
        row = int(np.prod(shape[1:])) * dtype.itemsize
        for start in range(0, shape[0], batch_size):
            count = min(batch_size, shape[0] - start)
            yield np.frombuffer(file.read(count * row), dtype).reshape(count, *shape[1:])


def _header(file) -> Tuple[Tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran:
        raise DataError('arrays in column order are not supported: save a C-ordered copy')
    return shape, dtype
