"""The released binary cross entropy, written out in float64."""

import pytest
import torch

from mmvisionllama.losses import BinarizedCrossEntropyLoss


def by_hand(scores, targets):
    """Mean over samples and classes of -(t log p + (1 - t) log(1 - p)), t in {0, 1}."""
    p = 1 / (1 + torch.exp(-scores.double()))
    return -torch.where(targets > 0, p.log(), (1 - p).log()).mean()


def test_mixed_targets_count_fully():
    scores = torch.randn(4, 7)
    targets = torch.zeros(4, 7)
    targets[:, 2], targets[:, 5] = 0.3, 0.7
    loss = BinarizedCrossEntropyLoss(loss_weight=2.0)(scores, targets, avg_factor=4)
    assert loss.item() == pytest.approx(2 * by_hand(scores, targets).item(), abs=1e-6)


def test_indices():
    scores = torch.randn(4, 7)
    labels = torch.tensor([0, 3, 6, 3])
    targets = torch.eye(7)[labels]
    assert BinarizedCrossEntropyLoss()(scores, labels).item() == pytest.approx(
        by_hand(scores, targets).item(), abs=1e-6
    )


def test_head_takes_it():
    """mmpretrain's head passes what it passes to its own losses."""
    pytest.importorskip('mmpretrain.models')
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmpretrain')
    head = MODELS.build(
        dict(type='LinearClsHead', num_classes=7, in_channels=5, loss=dict(type='BinarizedCrossEntropyLoss'))
    )
    feats = (torch.randn(4, 5),)
    targets = torch.rand(4, 7)
    from mmpretrain.structures import DataSample

    loss = head.loss(feats, [DataSample().set_gt_score(score) for score in targets])['loss']
    assert loss.item() == pytest.approx(by_hand(head(feats), targets).item(), abs=1e-6)
