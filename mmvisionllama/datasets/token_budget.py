"""Batches of as many images as a budget of tokens holds, for packed training."""

import math
from typing import Any, Iterator, List, Optional, Sequence

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from mmengine.registry import DATA_SAMPLERS

from ..errors import DataError, OptionError
from ..layers.options import checked_choice
from .transforms.resize_to_tokens import PatchSize, fitted_size, token_count

ON_ERROR = ('raise', 'skip')


class UnreadableError(DataError):
    """The header of a picture."""


@DATA_SAMPLERS.register_module()
class TokenBudgetBatchSampler:
    """Batches whose images have no more than ``max_tokens`` patches together, in the order of the sampler.

    For training: every epoch has the same number of batches in every process, so that schedules and distributed
    training know it. It is the number that the whole data set fills in its own order; a shuffled epoch that fills fewer
    starts over from its first images, one that fills more leaves its last images out.

    Sizes come from the data set's ``height`` and ``width`` where its samples have them, else from the headers of the
    image files, each read once, when the first epoch starts.

    Args:
        sampler: mmengine's sampler, given by the Runner.
        batch_size: The data loader's; here the largest number of images in a batch.
        max_tokens: Largest number of patches in a batch.
        patch_size: Pixels of the backbone's patch, a number or (height, width).
        image_tokens: (smallest, largest) number of patches of an image, as in the pipeline's
            :class:`~mmvisionllama.datasets.transforms.ResizeToTokens`.
        image_size: In the place of ``image_tokens`` the largest (height, width) that the pipeline makes, where it does
            not depend on the file; no size is read then.
        on_error: ``'raise'`` ends at a file whose size cannot be read, with its name; ``'skip'`` counts it as an image
            that fills a batch and leaves it to the pipeline. The Runner sets it from ``broken_pictures``.

    Raises:
        DataError: For an image that is larger than the budget, or has neither a size nor a file that tells it; for a
            process without images.
        OptionError: For a sampler without an end; for ``image_tokens`` and ``image_size`` together.
    """

    def __init__(
        self,
        sampler: Any,
        batch_size: int,
        max_tokens: int,
        patch_size: PatchSize,
        image_tokens: Optional[Sequence[int]] = None,
        image_size: Optional[Sequence[int]] = None,
        on_error: str = 'raise',
    ) -> None:
        if isinstance(sampler, InfiniteSampler):
            raise OptionError(
                "TokenBudgetBatchSampler needs a sampler with an end: take sampler=dict(type='DefaultSampler', "
                'shuffle=True), also in trainings by iteration'
            )
        if image_tokens is not None and image_size is not None:
            raise OptionError('give TokenBudgetBatchSampler image_tokens or image_size, not both')
        self.sampler = sampler
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.patch_size = patch_size
        self.image_tokens = image_tokens
        self.image_size = image_size
        self.on_error = checked_choice('on_error', on_error, ON_ERROR)
        self._tokens: Optional[List[int]] = None
        self._batches: Optional[int] = None

    @property
    def dataset(self) -> Any:
        """The sampler's data set."""
        return self.sampler.dataset

    def tokens(self, index: int) -> int:
        """Patches of one image."""
        try:
            size = self.image_size or self._size(index)
        except UnreadableError:
            if self.on_error == 'raise':
                raise
            return self.max_tokens  # whatever comes in its place fits
        if self.image_tokens is not None:
            smallest, largest = self.image_tokens
            size = fitted_size(size, self.patch_size, largest, smallest)
        count = token_count(size, self.patch_size)
        if count > self.max_tokens:
            raise DataError(
                f'image {index} has {count} patches and a batch at most {self.max_tokens}: raise max_tokens or limit '
                f'the images with ResizeToTokens and image_tokens'
            )
        return count

    def _size(self, index: int) -> Sequence[int]:
        info = self.dataset.get_data_info(index)
        if info.get('height') and info.get('width'):
            return info['height'], info['width']
        if not info.get('img_path'):
            raise DataError(f'image {index} has neither height and width nor img_path: give image_size')
        from PIL import Image

        try:
            with Image.open(info['img_path']) as image:
                return image.height, image.width
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UnreadableError(
                f'the size of picture {info["img_path"]} cannot be read ({error}): replace it'
            ) from error

    def _fill(self, indices: Sequence[int]) -> Iterator[List[int]]:
        """Batches in the order of ``indices``."""
        batch, used = [], 0
        for index in indices:
            count = self._tokens[index]
            if batch and (used + count > self.max_tokens or len(batch) == self.batch_size):
                yield batch
                batch, used = [], 0
            batch.append(index)
            used += count
        if batch:
            yield batch

    def _prepare(self) -> None:
        if self._tokens is None:
            self._tokens = [self.tokens(index) for index in range(len(self.dataset))]
            whole = sum(1 for _ in self._fill(range(len(self.dataset))))
            self._batches = math.ceil(whole / get_world_size())

    def __len__(self) -> int:
        """Batches of an epoch in each process."""
        self._prepare()
        return self._batches

    def __iter__(self) -> Iterator[List[int]]:
        self._prepare()
        indices, given = list(self.sampler), 0
        if not indices:
            raise DataError('a process has no images: there are fewer than processes, and round_up=False')
        while given < self._batches:
            for batch in self._fill(indices):
                if given == self._batches:
                    return
                given += 1
                yield batch
