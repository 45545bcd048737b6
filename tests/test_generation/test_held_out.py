"""Scores from pictures that were not trained on."""

import numpy as np
import pytest
import torch
from torch import nn

import mmvisionllama
from mmvisionllama.generation import ClassifierFeatures, GaussianDiffusion, LinearInterpolant, held_out_loss


class Zero(nn.Module):
    """Says 0, of as many channels as the objective wants, and notes the labels."""

    def __init__(self, objective, channels):
        super().__init__()
        self.objective, self.channels, self.labels = objective, channels, []

    def network(self, x, t, labels):
        self.labels += labels.tolist()
        return x.new_zeros(len(x), self.channels, *x.shape[2:])


@pytest.mark.parametrize('objective, channels', [(GaussianDiffusion, 6), (LinearInterpolant, 3)])
def test_loss_of_a_network_that_says_nothing(objective, channels):
    """The mean square of the noise, or of the velocity to a black picture, which is the noise; the same every time."""
    batches = [dict(inputs=torch.zeros(2, 3, 32, 32), labels=torch.tensor([5, 7])) for _ in range(2)]
    model = Zero(objective(), channels).train()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = held_out_loss(model, batches, draws=3)
    assert first == held_out_loss(model, batches, draws=3) == pytest.approx(1, abs=0.05)
    assert first != held_out_loss(model, batches, draws=3, seed=1)
    assert torch.equal(torch.get_rng_state(), state) and not model.training
    assert model.labels[:12] == [5, 7] * 6


@pytest.mark.parametrize('name', ['vision_llama_digits', 'pyramid_vision_llama_digits'])
def test_features_are_what_the_classifier_decides_by(name):
    pytest.importorskip('mmpretrain')
    model = mmvisionllama.get_model(name, pretrained=True).train()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8))
    found = ClassifierFeatures(model)(images)
    assert found['pool'].shape == (3, model.head.in_channels) and not found['pool'].requires_grad
    torch.testing.assert_close(model.head.fc(found['pool']), found['logits'])
    data = model.data_preprocessor(dict(inputs=images.flip(1)))  # mmcv's pictures are BGR
    torch.testing.assert_close(model.head(model.extract_feat(data['inputs'])), found['logits'])
