"""Calibration: do predictions of confidence p come true in p of the cases (Guo et al., arXiv 1706.04599)?"""

from typing import NamedTuple

import torch
from torch import Tensor


class Reliability(NamedTuple):
    """Accuracy and confidence of the predictions, sorted into bins of equal width by confidence.

    Attributes:
        edges (Tensor): Borders of the bins, ``(bins + 1,)``; a bin includes its upper border.
        confidence (Tensor): Mean confidence in each bin, ``(bins,)``, 0 where it is empty.
        accuracy (Tensor): Part of right predictions in each bin, ``(bins,)``, 0 where it is empty.
        count (Tensor): Predictions in each bin, ``(bins,)``.
    """

    edges: Tensor
    confidence: Tensor
    accuracy: Tensor
    count: Tensor

    @property
    def expected_error(self) -> float:
        """Expected calibration error, ECE: mean of \\|accuracy - confidence\\| weighted by the counts, 0 ... 1."""
        gap = (self.accuracy - self.confidence).abs()
        return ((gap * self.count).sum() / self.count.sum()).item()

    @property
    def maximum_error(self) -> float:
        """Largest \\|accuracy - confidence\\| of a bin, 0 ... 1."""
        return (self.accuracy - self.confidence).abs().max().item()


def reliability(scores: Tensor, labels: Tensor, bins: int = 15) -> Reliability:
    """Sorts predictions into confidence bins.

    Args:
        scores: Probabilities, ``(N, K)``.
        labels: True classes, ``(N,)``.
        bins: Number of bins.

    Raises:
        ValueError: If the scores are no probabilities, or there are none, and without bins.
    """
    if bins < 1:
        raise ValueError(f'calibration needs at least one bin, got {bins}')
    if scores.ndim != 2 or not len(scores) or len(scores) != len(labels):
        raise ValueError(f'expected scores (N, K) and labels (N,), got {tuple(scores.shape)} and {tuple(labels.shape)}')
    scores = scores.double()
    if scores.min() < 0 or scores.max() > 1 + 1e-6:
        raise ValueError('calibration needs probabilities in 0 ... 1: apply the softmax to the scores first')
    confidence, predicted = scores.max(dim=1)
    right = (predicted == labels).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    index = torch.bucketize(confidence, edges[1:-1])  # [N], lower border < confidence <= upper border
    count = torch.bincount(index, minlength=bins)
    filled = count.clamp(min=1)
    return Reliability(
        edges,
        torch.bincount(index, confidence, minlength=bins) / filled,
        torch.bincount(index, right, minlength=bins) / filled,
        count,
    )
