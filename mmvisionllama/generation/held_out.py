"""Scores of a generator from pictures it was not trained on, without Inception's weights."""

from functools import partial
from typing import Any, Dict, Iterable

import torch
from torch import Tensor, nn


def _labelled(network: nn.Module, labels: Tensor, x: Tensor, t: Tensor) -> Tensor:
    return network(x, t, labels)


@torch.no_grad()
def held_out_loss(model: nn.Module, batches: Iterable[Dict[str, Tensor]], draws: int = 4, seed: int = 0) -> float:
    """Mean squared error of the predicted noise (DiT) or velocity (SiT), the loss of training without its other terms.

    Models of one objective get the same times and noises, so their losses can be compared picture by picture.

    Args:
        model: An ``ImageGenerator`` of pixels; put into evaluation mode.
        batches: With ``inputs`` ``(B, channels, height, width)``, fp32 in [-1, 1], and ``labels`` ``(B,)``.
        draws: Times and noises for each picture.
        seed: Seed of them; torch's generator is left as it was.
    """
    model.eval()
    total, count = 0.0, 0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for batch in batches:
            network = partial(_labelled, model.network, batch['labels'])
            for _ in range(draws):
                losses = model.objective.losses(network, batch['inputs'])
                error = losses['loss_mse' if 'loss_mse' in losses else 'loss_velocity']
                total, count = total + error.double().sum().item(), count + len(error)
    return total / count


class ClassifierFeatures:
    """Features of a classifier in the place of Inception's, for pictures of its kind.

    Distances in them compare models that are measured with the same classifier; they are no FID of a publication.

    Args:
        classifier: mmpretrain's ``ImageClassifier``, as ``mmvisionllama.get_model(NAME, pretrained=True)`` gives it, of
            RGB pictures.
    """

    def __init__(self, classifier: nn.Module) -> None:
        self.classifier = classifier.eval()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Dict[str, Any]:
        """uint8 RGB images ``(B, 3, height, width)`` to ``pool`` ``(B, D)`` and ``logits`` ``(B, K)`` on the CPU."""
        classifier = self.classifier.to(images.device)
        normalise = classifier.data_preprocessor
        features = classifier.extract_feat((images - normalise.mean) / normalise.std)
        return dict(pool=classifier.head.pre_logits(features).cpu(), logits=classifier.head(features).cpu())
