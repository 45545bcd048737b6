"""Which file is to blame when a data set's pipeline fails."""

import logging
from typing import Any, Iterator, Optional

import torch
from mmengine.dataset import BaseDataset, Compose
from mmengine.logging import print_log
from torch.utils.data import Dataset

from ..errors import DataError
from .pictures import read

#: keys of a sample's paths
PICTURES = {'img_path': 'picture', 'seg_map_path': 'label map'}


class WatchedPipeline(Compose):
    """A pipeline that, when it fails, looks whether a file of the sample is to blame, and names it.

    Nothing is read twice while all goes well.

    Args:
        pipeline: The pipeline; its list of transforms is shared, so that hooks may change it.
        skipped: Counter that the loader's processes share. With it a sample of a broken file is None, for which
            mmengine's data sets take another one; without it the error is raised.
    """

    def __init__(self, pipeline: Compose, skipped: Optional[torch.Tensor] = None) -> None:
        self.transforms = pipeline.transforms
        self.skipped = skipped

    def __call__(self, data: dict) -> Any:
        """As :class:`Compose`.

        Raises:
            DataError: For a sample whose file cannot be read.
        """
        paths = {what: data.get(key) for key, what in PICTURES.items()}
        try:
            return super().__call__(data)
        except Exception as error:  # each decoder has its own
            broken = error if isinstance(error, DataError) else find_broken(paths)
            if broken is None:
                raise
            if self.skipped is None:
                raise broken from error
            self.skipped += 1
            print_log(f'{broken} ({int(self.skipped)} skipped so far)', 'current', level=logging.WARNING)
            return None


def find_broken(paths: dict) -> Optional[DataError]:
    """The error of the first file that Pillow cannot read either."""
    for what, path in paths.items():
        if isinstance(path, str):
            try:
                read(path, what)
            except DataError as broken:
                return broken
    return None


def iter_base_datasets(dataset: Dataset) -> Iterator[BaseDataset]:
    """mmengine's data sets inside wrappers."""
    if isinstance(dataset, BaseDataset):
        yield dataset
    for part in getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]:
        if part is not None:
            yield from iter_base_datasets(part)


def watch_files(dataset: Dataset, skipped: Optional[torch.Tensor] = None) -> None:
    """Makes the pipelines of a data set name broken files, or with a counter pass over and count them.

    Args:
        dataset: Any data set; others than mmengine's are left as they are.
        skipped: As in :class:`WatchedPipeline`. Only training data are skipped, an evaluation is of every sample.
    """
    for part in iter_base_datasets(dataset):
        kind = type(part.pipeline)
        # mmcv has its own, which hooks put in the place of mmengine's
        if kind.__name__ == 'Compose' and kind.__module__.split('.')[0] in ('mmengine', 'mmcv'):
            part.pipeline = WatchedPipeline(part.pipeline, None if part.test_mode else skipped)
