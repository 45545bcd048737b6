"""Data of image generation: labelled image folders, and the labels of a set that is to be sampled."""

import os
from typing import Any, Dict, Optional, Sequence

import numpy as np
import torch
from mmengine.registry import DATASETS
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import DataError

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')


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

    Args:
        data_root: Folder of the classes.
        size: Side of the square images, pixels.
        grayscale: One channel instead of three.

    Raises:
        DataError: If ``data_root`` has no class folder with images.
    """

    def __init__(self, data_root: str, size: int = 256, grayscale: bool = False) -> None:
        if not os.path.isdir(data_root):
            raise DataError(f'{data_root!r} is no folder: it should hold one folder of images per class')
        self.size = size
        self.grayscale = grayscale
        self.classes = sorted(entry.name for entry in os.scandir(data_root) if entry.is_dir())
        self.samples = [
            (os.path.join(folder, name), label)
            for label, class_name in enumerate(self.classes)
            for folder, _, names in sorted(os.walk(os.path.join(data_root, class_name)))
            for name in sorted(names)
            if name.lower().endswith(EXTENSIONS)
        ]
        if not self.samples:
            raise DataError(f'{data_root!r} has no images: it should hold one folder of images per class')

    @property
    def metainfo(self) -> Dict[str, Any]:
        """Class names."""
        return dict(classes=self.classes)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Dict[str, Any]:
        """``inputs``: fp32 image in [-1, 1], ``(channels, size, size)``; ``labels``: number of the class."""
        from PIL import Image

        path, label = self.samples[index]
        with Image.open(path) as image:
            pixels = np.asarray(center_crop(image.convert('L' if self.grayscale else 'RGB'), self.size), np.float32)
        pixels = torch.from_numpy(pixels / 127.5 - 1)
        return dict(inputs=pixels[None] if self.grayscale else pixels.permute(2, 0, 1), labels=label)


@DATASETS.register_module()
class ClassLabels(Dataset):
    """Labels of a set of samples; with them ``predict`` mode draws the images.

    Args:
        num_samples: Size of the set.
        num_classes: Labels are drawn from this many classes, uniformly.
        classes: Go round these labels instead.
        seed: Seed of the draw.

    Raises:
        ValueError: For a class out of range.
    """

    def __init__(
        self, num_samples: int, num_classes: int, classes: Optional[Sequence[int]] = None, seed: int = 0
    ) -> None:
        if classes is not None:
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
    """Raises a ValueError that names the labels outside 0 ... num_classes - 1."""
    values = labels.tolist() if isinstance(labels, Tensor) else list(labels)
    wrong = sorted({value for value in values if not 0 <= value < num_classes})
    if wrong:
        raise ValueError(f'class {", ".join(map(str, wrong))} is out of range: the model has 0 ... {num_classes - 1}')
