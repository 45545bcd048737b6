"""Runs a classifier over the test set of its config."""

from typing import Any, Iterable, List, NamedTuple, Tuple

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..engine import launch


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


def open_classifier(cfg: Config, checkpoint: str) -> Tuple[nn.Module, Iterable]:
    """Model and test data of a classification config.

    Args:
        cfg: Config with ``work_dir`` set.
        checkpoint: Weights.

    Returns:
        tuple: The model in evaluation mode on its device, and the data loader.

    Raises:
        LaunchError: If the config is no classification config or its data is missing.
        CheckpointError: If the checkpoint cannot be read.
    """
    if cfg.get('default_scope') != 'mmpretrain':
        raise launch.LaunchError(
            f'this analysis takes classification configs (default_scope mmpretrain), and this one is for '
            f'{cfg.get("default_scope")}'
        )
    cfg.log_level = 'WARNING'
    runner = launch.build_runner(launch.prepare_test(cfg, checkpoint))
    runner.load_or_resume()
    return runner.model.eval(), runner.build_dataloader(cfg.test_dataloader)


@torch.no_grad()
def predict(model: nn.Module, dataloader: Iterable[Any]) -> Predictions:
    """Scores of all images.

    Raises:
        LaunchError: If there are no images or they have several labels.
    """
    model.eval()
    samples = [sample for batch in dataloader for sample in model.test_step(batch)]
    if not samples:
        raise launch.LaunchError('the test set is empty: check test_dataloader')
    if any(sample.gt_label.numel() != 1 for sample in samples):
        raise launch.LaunchError('this analysis needs one label per image')
    return Predictions(
        torch.stack([sample.pred_score.float().cpu() for sample in samples]),
        torch.cat([sample.gt_label.cpu() for sample in samples]),
        [sample.get('img_path') for sample in samples if sample.get('img_path')],
    )
