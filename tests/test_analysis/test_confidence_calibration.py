"""Calibration error against a loop over predictions, and on data whose answer is known."""

import numpy as np
import pytest
import torch

from mmvisionllama.analysis.confidence_calibration import reliability
from mmvisionllama.visualization.analyses import draw_reliability


def slow_ece(scores, labels, bins):
    """Guo et al.: sum over bins of |B| / N * |acc(B) - conf(B)|, one prediction at a time."""
    members = [[] for _ in range(bins)]
    for row, label in zip(scores, labels):
        confidence = max(row)
        for b in range(bins):
            if b / bins < confidence <= (b + 1) / bins:
                members[b].append((confidence, float(list(row).index(confidence) == label)))
    total = 0.0
    for bin_members in members:
        if bin_members:
            confidence, right = np.mean(bin_members, axis=0)
            total += len(bin_members) / len(scores) * abs(right - confidence)
    return total


@pytest.mark.parametrize('bins', [1, 10, 15])
def test_expected_error_equals_a_loop(bins):
    generator = np.random.default_rng(0)
    scores = generator.dirichlet([0.3] * 5, size=400)
    labels = generator.integers(0, 5, size=400)
    result = reliability(torch.tensor(scores), torch.tensor(labels), bins)
    assert result.expected_error == pytest.approx(slow_ece(scores, labels, bins), abs=1e-9)
    assert result.count.sum() == 400


def test_known_errors():
    scores = torch.tensor([[0.75, 0.25]] * 4)
    assert reliability(scores, torch.tensor([0, 0, 0, 1])).expected_error == pytest.approx(0)
    assert reliability(scores, torch.tensor([0, 0, 0, 0])).expected_error == pytest.approx(0.25)
    assert reliability(scores, torch.tensor([1, 1, 1, 1])).maximum_error == pytest.approx(0.75)


def test_a_border_belongs_to_the_bin_below():
    result = reliability(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([0, 0]), bins=2)
    assert result.count.tolist() == [1, 1]


def test_scores_must_be_probabilities_of_some_images():
    with pytest.raises(ValueError, match='softmax'):
        reliability(torch.tensor([[2.0, -1.0]]), torch.tensor([0]))
    with pytest.raises(ValueError, match=r'\(N, K\)'):
        reliability(torch.zeros(0, 3), torch.zeros(0))


def test_the_diagram_is_a_picture(tmp_path):
    from PIL import Image

    path = tmp_path / 'diagram.png'
    result = reliability(torch.rand(50, 4).softmax(1), torch.randint(4, (50,)))
    draw_reliability(result, str(path), 'a model')
    with Image.open(path) as picture:
        assert np.asarray(picture.convert('L')).std() > 10  # not blank
