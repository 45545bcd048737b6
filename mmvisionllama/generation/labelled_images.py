"""Data of image generation: labelled image folders, and the labels of a set that is to be sampled."""

import logging
import os
from typing import Any, Dict, Iterator, Optional, Sequence

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from torch import Tensor
from torch.utils.data import Dataset

from ..datasets.pictures import eight_bit, read, upright
from ..errors import DataError, OptionError
from ..layers.options import checked_choice, checked_whole

#: those of torchvision's ImageFolder, which DiT and SiT read
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp')
ON_ERROR = ('raise', 'skip')
#: so many broken pictures in a row are no accident
MAX_SKIPPED = 100


def center_crop(image, size: int):
    """ADM's crop, which DiT and SiT share: halve with a box filter while the short side is at least twice ``size``,
    resize bicubically to ``size``, cut the centre.

    Args:
        image: PIL image.
        size: Side of the result in pixels.

    Returns:
        PIL.Image: ``size`` x ``size``.
    """
    from PIL import Image

    while min(image.size) >= 2 * size:
        image = image.resize(tuple(side // 2 for side in image.size), resample=Image.Resampling.BOX)
    if min(image.size) != size:
        scale = size / min(image.size)
        image = image.resize(tuple(round(side * scale) for side in image.size), resample=Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in image.size)
    return image.crop((left, top, left + size, top + size))


@DATASETS.register_module()
class LabelledImages(Dataset):
    """Images in one folder per class, ``data_root/<class>/...``, in the order of the sorted folder names.

    Nothing in it is random: the model mirrors images (``flip_prob``), so that a resumed training repeats exactly.
    Pictures stand upright (EXIF), 16-bit grey levels are brought to 8 bits, and hidden files and folders
    (``.ipynb_checkpoints``) are passed over.

    Args:
        data_root: Folder of the classes.
        size: Side of the square images, pixels.
        grayscale: One channel instead of three.
        on_error: ``'raise'`` ends at a picture that cannot be read, with its name; ``'skip'`` gives the next one in its
            place and counts it in the log and in :attr:`skipped`.

    Raises:
        DataError: If ``data_root`` has no class folder, or one without images, which would shift the labels.
    """

    def __init__(self, data_root: str, size: int = 256, grayscale: bool = False, on_error: str = 'raise') -> None:
        if not os.path.isdir(data_root):
            raise DataError(f'{data_root!r} is no folder: it should hold one folder of images per class')
        self.data_root = os.fspath(data_root)
        self.size = checked_whole('size', size)
        self.grayscale = grayscale
        self.on_error = checked_choice('on_error', on_error, ON_ERROR)
        self._skipped = torch.zeros((), dtype=torch.int64).share_memory_()  # counted in the loader's processes
        self.classes = sorted(e.name for e in os.scandir(data_root) if e.is_dir() and not e.name.startswith('.'))
        self.samples = [
            (path, label)
            for label, class_name in enumerate(self.classes)
            for path in find_images(os.path.join(data_root, class_name))
        ]
        empty = set(range(len(self.classes))).difference(label for _, label in self.samples)
        if not self.samples:
            raise DataError(f'{data_root!r} has no images: it should hold one folder of images per class')
        if empty:
            names = ', '.join(repr(self.classes[label]) for label in sorted(empty)[:8])
            raise DataError(f'{data_root!r} has class folders without images ({names}): fill or remove them')

    @property
    def metainfo(self) -> Dict[str, Any]:
        """Class names."""
        return dict(classes=self.classes)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Dict[str, Any]:
        """``inputs``: fp32 image in [-1, 1], ``(channels, size, size)``; ``labels``: number of the class.

        Raises:
            DataError: For a picture that cannot be read, which the message names.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        for offset in range(MAX_SKIPPED):
            path, label = self.samples[(index + offset) % len(self.samples)]
            try:
                return dict(inputs=self.load(path), labels=label)
            except DataError as error:
                if self.on_error == 'raise':
                    raise
                self._skipped += 1
                print_log(f'{error} ({self.skipped} skipped so far)', 'current', level=logging.WARNING)
        raise DataError(f'{MAX_SKIPPED} pictures in a row cannot be read, the last is {path}: check the data')

    @property
    def skipped(self) -> int:
        """How often a picture was passed over because it cannot be read, by all processes of the loader."""
        return int(self._skipped)

    def load(self, path: str) -> Tensor:
        """The image of a file, fp32 in [-1, 1], ``(channels, size, size)``."""
        image = eight_bit(upright(read(path, 'picture')), path).convert('L' if self.grayscale else 'RGB')
        pixels = np.asarray(center_crop(image, self.size), np.float32)
        pixels = torch.from_numpy(pixels / 127.5 - 1)
        return pixels[None] if self.grayscale else pixels.permute(2, 0, 1)


def find_images(folder: str) -> Iterator[str]:
    """Paths of the images in a folder and below it, in order, without hidden ones."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        for name in sorted(names):
            if name.lower().endswith(EXTENSIONS) and not name.startswith('.'):
                yield os.path.join(parent, name)


@DATASETS.register_module()
class ClassLabels(Dataset):
    """Labels of a set of samples; with them ``predict`` mode draws the images.

    Args:
        num_samples: Size of the set.
        num_classes: Labels are drawn from this many classes, uniformly.
        classes: Go round these labels instead.
        seed: Seed of the draw.

    Raises:
        OptionError: For a class out of range, or classes that name none.
    """

    def __init__(
        self, num_samples: int, num_classes: int, classes: Optional[Sequence[int]] = None, seed: int = 0
    ) -> None:
        if classes is not None:
            if not len(classes):
                raise OptionError('classes names none: name one or more, or leave it out to draw from all')
            check_labels(classes, num_classes)
            labels = np.resize(np.asarray(classes, dtype=np.int64), num_samples)
        else:
            labels = np.random.Generator(np.random.PCG64(seed)).integers(num_classes, size=num_samples)
        self.labels = labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Dict[str, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return dict(labels=self.labels[index], index=index)


def check_labels(labels: Sequence[int], num_classes: int) -> None:
    """Raises an OptionError that names the labels outside 0 ... num_classes - 1."""
    values = labels.tolist() if isinstance(labels, Tensor) else list(labels)
    wrong = sorted({value for value in values if not 0 <= value < num_classes})
    if wrong:
        raise OptionError(f'class {", ".join(map(str, wrong))} is out of range: the model has 0 ... {num_classes - 1}')
