"""Scores of a classifier for all images of a data loader."""

from typing import Any, Iterable, List, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import DataError


class Predictions(NamedTuple):
    """Outputs for N images and K classes.

    Attributes:
        scores (Tensor): Probabilities, ``(N, K)``, fp32.
        labels (Tensor): True classes, ``(N,)``, int64.
        paths (list): Files of the images, where the data set has files.
    """

    scores: Tensor
    labels: Tensor
    paths: List[str]

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy in percent."""
        return 100 * (self.scores.argmax(dim=1) == self.labels).double().mean().item()


@torch.no_grad()
def predict(model: nn.Module, dataloader: Iterable[Any]) -> Predictions:
    """Scores of all images.

    Raises:
        DataError: If there are no images or they have several labels.
    """
    model.eval()
    samples = [sample for batch in dataloader for sample in model.test_step(batch)]
    if not samples:
        raise DataError('the test set is empty: check test_dataloader')
    if any(sample.gt_label.numel() != 1 for sample in samples):
        raise DataError('this analysis needs one label per image')
    return Predictions(
        torch.stack([sample.pred_score.float().cpu() for sample in samples]),
        torch.cat([sample.gt_label.cpu() for sample in samples]),
        [sample.get('img_path') for sample in samples if sample.get('img_path')],
    )
