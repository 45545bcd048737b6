"""A check of the files of a segmentation data set, with errors that name the file."""

from pathlib import Path
from typing import Any, Optional, Tuple

import numpy as np
from mmengine.registry import TRANSFORMS

from ...errors import DataError, OptionError
from ..pictures import read, upright_size
from ..seen_files import SeenFiles

IGNORED = 255


@TRANSFORMS.register_module()
class CheckSegFiles:
    """Reads a picture and its label map before the pipeline does, and says which file is wrong and how.

    Libraries decode a truncated JPEG without a word, name no file when a PNG is damaged, and meet a class that is not
    there inside a loss or, on a GPU, as a device-side assertion. Files that were found right are not read again until
    they change, whatever workers and epochs come; see :class:`~mmvisionllama.datasets.seen_files.SeenFiles`. Stands
    first in a pipeline; a picture without a label map and a path are checked as well, arrays pass.

    Required Keys: ``img_path``; ``seg_map_path`` if there is a label map. Nothing is modified.

    Args:
        num_classes: Classes in the files. Their labels are 0 ... num_classes - 1, or with ``reduce_zero_label``
            1 ... num_classes, 0 being unlabelled; 255 is unlabelled in both cases, and mmsegmentation reads label maps
            with 8 bits.
        reduce_zero_label: As the data set's.
        backend_args: Of mmengine's file clients.

    Raises:
        DataError: For a file that cannot be read, a label map of another size than its picture or with more than one
            channel, and labels outside the classes.
        OptionError: For more classes than 8 bits hold.
    """

    def __init__(self, num_classes: int, reduce_zero_label: bool = False, backend_args: Optional[dict] = None) -> None:
        most = IGNORED - bool(reduce_zero_label)
        if num_classes > most:
            raise OptionError(
                f'{num_classes} classes: mmsegmentation reads label maps with 8 bits, which hold {most} and the '
                f'unlabelled'
            )
        self.num_classes = num_classes
        self.reduce_zero_label = reduce_zero_label
        self.backend_args = backend_args
        self._right = SeenFiles()

    def __call__(self, results: Any) -> Any:
        """Returns ``results`` as they are."""
        if isinstance(results, dict):
            files = results.get('img_path'), results.get('seg_map_path')
        else:
            files = (results if isinstance(results, (str, Path)) else None), None
        if files[0] is None:
            return results
        key = self._right.key(*files)
        if key in self._right:
            return results
        size = upright_size(read(files[0], 'picture', self.backend_args))
        if files[1] is not None:
            self._check_labels(*files, size)
        self._right.add(key)
        return results

    def _check_labels(self, img_path: str, seg_map_path: str, size: Tuple[int, int]) -> None:
        labels = np.asarray(read(seg_map_path, 'label map', self.backend_args))
        if labels.ndim != 2:
            raise DataError(
                f'label map {seg_map_path} is a colour image of shape {labels.shape}: expected one channel that holds '
                f'the class of each pixel'
            )
        if labels.shape[::-1] != size:
            raise DataError(
                f'label map {seg_map_path} has {labels.shape[1]} x {labels.shape[0]} pixels, its picture {img_path} '
                f'{size[0]} x {size[1]}: they must be of the same size'
            )
        last = self.num_classes if self.reduce_zero_label else self.num_classes - 1
        values = _present(labels)
        unknown = values[((values > last) & (values != IGNORED)) | (values < 0)]
        if unknown.size:
            raise DataError(
                f'label map {seg_map_path} has the labels {", ".join(map(str, unknown[:8]))}: the config knows '
                f'{self.num_classes} classes, labels {int(self.reduce_zero_label)} ... {last}'
                f'{" (0 unlabelled)" if self.reduce_zero_label else ""}, and {IGNORED} for unlabelled pixels'
            )

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_classes={self.num_classes}, reduce_zero_label={self.reduce_zero_label})'


def _present(labels: np.ndarray) -> np.ndarray:
    """The values of an array, ascending."""
    if labels.dtype not in (np.uint8, np.uint16):
        return np.unique(labels)
    present = np.zeros(np.iinfo(labels.dtype).max + 1, dtype=bool)  # np.unique would sort all pixels
    present[labels] = True
    return np.flatnonzero(present)
