"""Shape or texture? Decisions on images whose two cues conflict (Geirhos et al., arXiv 1811.12231).

The folders are those of that work's stimuli: ``ROOT/<shape>/<shape><number>-<texture><number>.png``.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor

#: category -> the ImageNet-1K classes that count as it, as that work chose them
IMAGENET_CATEGORIES = {
    'airplane': '404',
    'bear': '294-297',
    'bicycle': '444 671',
    'bird': '8 10-16 18-20 22-24 80-83 87-96 98-100 127-133 135-145',
    'boat': '472 554 625 814 914',
    'bottle': '440 720 737 898 899 901 907',
    'car': '436 511 817',
    'cat': '281-286',
    'chair': '423 559 765 857',
    'clock': '409 530 892',
    'dog': '152-191 193-203 205-226 228-241 243-250 252-257 259 261-263 265-268',
    'elephant': '385 386',
    'keyboard': '508 878',
    'knife': '499',
    'oven': '766',
    'truck': '555 569 656 675 717 734 864 867',
}

FILE_NAME = re.compile(r'^(?P<shape>[^-]+?)\d*-(?P<texture>[^-]+?)\d*$')


def class_indices(ranges: str) -> List[int]:
    """``'3 5-7'`` to ``[3, 5, 6, 7]``."""
    indices: List[int] = []
    for part in ranges.split():
        first, _, last = part.partition('-')
        indices.extend(range(int(first), int(last or first) + 1))
    return indices


def imagenet_categories() -> Dict[str, List[int]]:
    """The 16 categories and their ImageNet-1K classes."""
    return {name: class_indices(ranges) for name, ranges in IMAGENET_CATEGORIES.items()}


def cues_of(path: str) -> Tuple[str, str]:
    """Shape and texture that a file name states.

    Raises:
        ValueError: If the name is not ``<shape><number>-<texture><number>``.
    """
    match = FILE_NAME.match(Path(path).stem)
    if not match:
        raise ValueError(f'{path}: expected a file name like cat7-elephant1.png, shape and texture with their numbers')
    return match['shape'], match['texture']


class ShapeBias(NamedTuple):
    """Decisions on the images with conflicting cues.

    Attributes:
        shape (Counter): Category -> decisions for it where it was the shape.
        texture (Counter): Category -> decisions for it where it was the texture.
        images (int): Images with conflicting cues.
    """

    shape: Counter
    texture: Counter
    images: int

    @property
    def bias(self) -> float:
        """Part of shape decisions among the decisions for one of the cues, 0 (texture) ... 1 (shape)."""
        decided = sum(self.shape.values()) + sum(self.texture.values())
        return sum(self.shape.values()) / decided if decided else float('nan')

    @property
    def cue_accuracy(self) -> float:
        """Part of the images decided for either cue."""
        return (sum(self.shape.values()) + sum(self.texture.values())) / self.images if self.images else float('nan')


def category_scores(scores: Tensor, categories: Dict[str, Sequence[int]]) -> Tensor:
    """Mean probability of each category's classes: ``(N, K)`` to ``(N, number of categories)``.

    Raises:
        ValueError: If a category has no classes or one that the model does not have.
    """
    for name, indices in categories.items():
        if not indices or min(indices) < 0 or max(indices) >= scores.shape[1]:
            raise ValueError(
                f'category {name!r} has the classes {list(indices)}, and the model has {scores.shape[1]} classes: '
                f'give categories that fit this model'
            )
    return torch.stack([scores[:, list(indices)].mean(dim=1) for indices in categories.values()], dim=1)


def shape_bias(scores: Tensor, cues: Sequence[Tuple[str, str]], categories: Dict[str, Sequence[int]]) -> ShapeBias:
    """Counts decisions for the shape and for the texture; images whose cues agree are left out.

    Args:
        scores: Probabilities, ``(N, K)``.
        cues: Shape and texture of each image.
        categories: Category -> classes of the model.

    Raises:
        ValueError: For a cue that is no category.
    """
    unknown = sorted({cue for pair in cues for cue in pair} - set(categories))
    if unknown:
        raise ValueError(f'no classes are given for {", ".join(unknown)}: known are {", ".join(categories)}')
    names = list(categories)
    decisions = [names[i] for i in category_scores(scores, categories).argmax(dim=1).tolist()]
    shape, texture, images = Counter(), Counter(), 0
    for decision, (shape_cue, texture_cue) in zip(decisions, cues):
        if shape_cue == texture_cue:
            continue
        images += 1
        shape[decision] += decision == shape_cue
        texture[decision] += decision == texture_cue
    return ShapeBias(+shape, +texture, images)
