"""Binary cross entropy as DeiT III, and with it the released training of the plain models, computes it."""

from typing import Optional

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class BinarizedCrossEntropyLoss(nn.Module):
    """Binary cross entropy that takes every class of a mixed image as fully present: targets above 0 become 1.

    mmpretrain's ``CrossEntropyLoss(use_sigmoid=True)`` keeps the mixing ratios as targets.

    Args:
        loss_weight: Factor of the loss.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, cls_score: Tensor, label: Tensor, avg_factor: Optional[float] = None, **kwargs) -> Tensor:
        """Mean over samples and classes.

        Args:
            cls_score: Logits ``(B, classes)``.
            label: Class indices ``(B,)`` or scores ``(B, classes)``.
            avg_factor: Ignored; for the heads that pass it.

        Returns:
            Tensor: Scalar.
        """
        if label.ndim == 1:
            label = F.one_hot(label, cls_score.shape[-1])
        return self.loss_weight * F.binary_cross_entropy_with_logits(cls_score, (label > 0).to(cls_score.dtype))
