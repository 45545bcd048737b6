"""Runs a classifier over the test set of its config."""

from typing import Any, Iterable, List, NamedTuple, Optional, Tuple

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..checkpoints import CheckpointError, find_state_dict, read_checkpoint
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


def load_config(path: str, cfg_options: Optional[dict] = None) -> Config:
    """Reads the config of a classifier and sets its ``work_dir``.

    Args:
        path: Config file.
        cfg_options: Settings to override.

    Raises:
        LaunchError: If there is no such config, or it is not one of a classifier with a test set.
    """
    cfg = launch.load_config(path, cfg_options)
    model = (cfg.get('model') or {}).get('type')
    if cfg.get('default_scope') != 'mmpretrain' or model != 'ImageClassifier':
        raise launch.LaunchError(
            f'{path!r} builds a {model} (default_scope {cfg.get("default_scope")}), and this analysis takes '
            f'classification configs: default_scope mmpretrain, model ImageClassifier'
        )
    if not cfg.get('test_dataloader'):
        raise launch.LaunchError(f'{path!r} has no test_dataloader: there are no images to analyse')
    cfg.work_dir = launch.default_work_dir(cfg, path, None)
    return cfg


def open_classifier(cfg: Config, checkpoint: str) -> Tuple[nn.Module, Iterable]:
    """Model and test data of a classification config.

    Args:
        cfg: Config from :func:`load_config`.
        checkpoint: Weights.

    Returns:
        tuple: The model in evaluation mode on its device, and the data loader.

    Raises:
        LaunchError: If the data is missing.
        CheckpointError: If the checkpoint cannot be read or does not fit the config.
    """
    cfg.log_level = 'WARNING'
    runner = launch.build_runner(launch.prepare_test(cfg, checkpoint))
    try:
        runner.model.load_state_dict(find_state_dict(read_checkpoint(checkpoint)))
    except CheckpointError:
        raise
    except RuntimeError as error:  # the Runner would only warn, and the analysis be one of random weights
        reason = ' '.join(str(error).split())[:500]
        raise CheckpointError(f'{checkpoint!r} does not fit the config: {reason}') from error
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
