"""Scenes of real handwritten digits on a textured ground, for segmentation and detection.

Several digits of different sizes in each. No download: they are the scans of :mod:`mmvisionllama.datasets.digits`, and
the scenes are made from a seed.

One folder holds ADE20K's layout (a label per pixel) and COCO's (a box and a mask per digit) over the same images::

    root/images/{training,validation}/0000.jpg
    root/annotations/{training,validation}/0000.png     0 unlabelled (unused), 1 ground, 2 ... 11 the digits 0 ... 9
    root/annotations/instances_{train,val}.json         categories 1 ... 10 are the digits 0 ... 9

Every scene has a size of its own. Validation scenes are larger and show scans that no training scene shows.

A second folder holds crops with one digit each in ImageNet's layout, to pre-train a backbone for the scenes as ImageNet
does for ADE20K and COCO: ``root/{train,val}/DIGIT/00000.jpg``.
"""

import argparse
import json
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from ..errors import DataError
from .digits import clear, read_marker, split_digits

MARKER = 'digit_scenes.json'
#: goes up when the drawing changes, so that folders drawn otherwise are written again
DRAWING = 2
#: classes of the label maps, label 1 first; the digits are the categories of the instances as well
CLASSES = ('ground', *map(str, range(10)))
#: (folder, name in COCO's file names)
SPLITS = (('training', 'train'), ('validation', 'val'))


def ground(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A textured ground: soft colour patches, a grating and grain; ``(height, width, 3)``, float, 0 ... 255."""
    from PIL import Image

    base = rng.uniform(20, 120, 3)
    patches = np.clip(base + rng.normal(0, 22, (5, 5, 3)), 0, 255).astype('uint8')
    soft = np.asarray(Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC), dtype=float)
    y, x = np.mgrid[:height, :width]
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 16)
    waves = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
    return soft + rng.uniform(0, 18) * waves[..., None] + rng.normal(0, 6, (height, width, 3))


def ink_colour(rng: np.random.Generator, behind: np.ndarray) -> np.ndarray:
    """A colour brighter than the pixels ``behind`` it."""
    darkest = behind.mean() + 70
    while True:
        colour = rng.uniform(60, 255, 3)
        if colour.mean() > darkest:
            return colour


def render_digit(scan: np.ndarray, side: int, angle: float) -> np.ndarray:
    """A scan ``(8, 8)`` as ink ``(side, side)``, 0 ... 1, turned by ``angle`` degrees."""
    from PIL import Image

    image = Image.fromarray(scan).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image.rotate(angle, Image.Resampling.BICUBIC), dtype=float) / 255


def make_scene(
    rng: np.random.Generator,
    scans: np.ndarray,
    labels: np.ndarray,
    sides: Tuple[int, int],
    digit_sides: Tuple[int, int],
    max_digits: int,
) -> Tuple[np.ndarray, List[dict]]:
    """Draws one scene.

    Args:
        rng: Source of every choice.
        scans: Digits to choose from, ``(N, 8, 8)`` uint8.
        labels: Their classes, ``(N,)``.
        sides: Range of the height and of the width, pixels.
        digit_sides: Range of the side of a digit's frame, pixels.
        max_digits: Upper limit of their number; fewer where they find no place beside each other.

    Returns:
        tuple: the image ``(height, width, 3)`` uint8, and a dict per digit: ``digit`` and ``mask`` (height, width).
    """
    height, width = rng.integers(sides[0], sides[1], 2, endpoint=True)
    image = ground(rng, height, width)
    taken = np.zeros((height, width), dtype=bool)
    instances = []
    for _ in range(rng.integers(max(max_digits // 2, 1), max_digits, endpoint=True)):
        index = rng.integers(len(scans))
        side = min(int(rng.integers(digit_sides[0], digit_sides[1], endpoint=True)), height, width)
        ink = render_digit(scans[index], side, rng.uniform(-15, 15))
        for _ in range(20):
            top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
            frame = np.s_[top : top + side, left : left + side]
            if not taken[frame].any():
                break
        else:
            continue
        taken[frame] = True
        behind = image[frame]
        opacity = rng.uniform(0.8, 1.0) * ink[..., None]
        image[frame] = behind + opacity * (ink_colour(rng, behind) - behind)
        mask = np.zeros((height, width), dtype=bool)
        mask[frame] = ink >= 0.5
        instances.append(dict(digit=int(labels[index]), mask=mask))
    return np.clip(image.round(), 0, 255).astype('uint8'), instances


def run_lengths(mask: np.ndarray) -> List[int]:
    """COCO's uncompressed run-length code of a mask ``(H, W)``: down the columns, zeros first."""
    flat = mask.ravel(order='F')
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate(([0], changes, [flat.size]))).tolist()
    return [0, *runs] if flat[0] else runs


def coco_annotation(instance: dict, number: int, image: int) -> dict:
    """An instance in COCO's terms."""
    mask = instance['mask']
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    return dict(
        id=number,
        image_id=image,
        category_id=instance['digit'] + 1,
        iscrowd=0,
        area=int(mask.sum()),
        bbox=[left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
        segmentation=dict(size=list(mask.shape), counts=run_lengths(mask)),
    )


def write_split(root: Path, folder: str, short: str, scenes) -> None:
    """Writes the scenes of one split in both layouts."""
    from PIL import Image

    for kind in ('images', 'annotations'):
        (root / kind / folder).mkdir(parents=True)
    images, annotations = [], []
    for number, (image, instances) in enumerate(scenes):
        labels = np.ones(image.shape[:2], dtype='uint8')
        for instance in instances:
            labels[instance['mask']] = instance['digit'] + 2
            annotations.append(coco_annotation(instance, len(annotations) + 1, number))
        Image.fromarray(image).save(root / 'images' / folder / f'{number:04d}.jpg', quality=95)
        Image.fromarray(labels).save(root / 'annotations' / folder / f'{number:04d}.png')
        images.append(dict(id=number, file_name=f'{number:04d}.jpg', height=image.shape[0], width=image.shape[1]))
    categories = [dict(id=i + 1, name=str(i), supercategory='digit') for i in range(10)]
    coco = dict(images=images, annotations=annotations, categories=categories)
    (root / 'annotations' / f'instances_{short}.json').write_text(json.dumps(coco))


def is_written(root: Path, settings: dict) -> bool:
    """Whether ``root`` is complete and made with these settings."""
    return read_marker(root / MARKER) == settings


def write_scenes(
    root: str,
    counts: Sequence[int] = (600, 80),
    train_sides: Sequence[int] = (128, 192),
    val_sides: Sequence[int] = (176, 272),
    digit_sides: Sequence[int] = (28, 72),
    max_digits: Sequence[int] = (7, 12),
    seed: int = 0,
) -> Tuple[int, int]:
    """Writes training and validation scenes in the layouts of ADE20K and COCO.

    A complete folder with the same settings is left as it is; any other is written again.

    Args:
        root: Folder to write.
        counts: Number of training and of validation scenes.
        train_sides: Range of height and width of a training scene, pixels.
        val_sides: The same of a validation scene.
        digit_sides: Range of the side of a digit's frame, pixels.
        max_digits: Most digits in a training and in a validation scene.
        seed: Seed of everything.

    Returns:
        tuple: Number of training and of validation scenes.

    Raises:
        DataError: If ``root`` has such folders that it did not write.
        ImportError: Without scikit-learn.
    """
    root = Path(root)
    settings: Dict[str, Any] = dict(
        counts=list(counts),
        train_sides=list(train_sides),
        val_sides=list(val_sides),
        digit_sides=list(digit_sides),
        max_digits=list(max_digits),
        seed=seed,
        drawing=DRAWING,
    )
    if is_written(root, settings):
        return tuple(counts)
    scans, labels, *indices = split_digits()
    clear(root, root / MARKER, [f'{kind}/{folder}' for kind in ('images', 'annotations') for folder, _ in SPLITS])
    for i, (folder, short) in enumerate(SPLITS):
        rng = np.random.default_rng([seed, i])
        sides = (train_sides, val_sides)[i]
        own = indices[i]
        scenes = (make_scene(rng, scans[own], labels[own], sides, digit_sides, max_digits[i]) for _ in range(counts[i]))
        write_split(root, folder, short, scenes)
    (root / MARKER).write_text(json.dumps(settings) + '\n')
    return tuple(counts)


def write_crops(
    root: str,
    counts: Sequence[int] = (8000, 800),
    side: int = 64,
    digit_sides: Sequence[int] = (32, 64),
    seed: int = 0,
) -> Tuple[int, int]:
    """Writes square crops with one digit each in ImageNet's layout; validation crops show other scans.

    Args:
        root: Folder to write. A complete one with the same settings is left as it is.
        counts: Number of training and of validation crops.
        side: Side of a crop, pixels.
        digit_sides: Range of the side of a digit's frame, pixels.
        seed: Seed of everything.

    Returns:
        tuple: Number of training and of validation crops.

    Raises:
        DataError: If ``root`` has such folders that it did not write.
        ImportError: Without scikit-learn.
    """
    from PIL import Image

    root = Path(root)
    settings = dict(counts=list(counts), side=side, digit_sides=list(digit_sides), seed=seed, drawing=DRAWING)
    if is_written(root, settings):
        return tuple(counts)
    scans, labels, *indices = split_digits()
    clear(root, root / MARKER, ('train', 'val'))
    for i, folder in enumerate(('train', 'val')):
        for digit in range(10):
            (root / folder / str(digit)).mkdir(parents=True)
        rng = np.random.default_rng([seed, 2 + i])
        own = indices[i]
        for number in range(counts[i]):
            image, (instance,) = make_scene(rng, scans[own], labels[own], (side, side), digit_sides, 1)
            Image.fromarray(image).save(root / folder / str(instance['digit']) / f'{number:05d}.jpg', quality=95)
    (root / MARKER).write_text(json.dumps(settings) + '\n')
    return tuple(counts)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        'root', nargs='?', default='data/digit_scenes', help='folder to write (default: data/digit_scenes)'
    )
    parser.add_argument('--crops', action='store_true', help='write crops of one digit each, for pre-training')
    args = parser.parse_args()
    try:
        written = (write_crops if args.crops else write_scenes)(args.root)
    except (DataError, ImportError, OSError) as error:  # no scikit-learn; no place to write
        parser.exit(1, f'error: {error}\n')
    print(f'{args.root}: {written[0]} training and {written[1]} validation {"crops" if args.crops else "scenes"}')
