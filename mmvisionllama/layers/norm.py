"""Normalisation layers by config, as in mmcv."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..errors import OptionError
from .options import check_flags, checked_choice, made


class RMSNorm(nn.LayerNorm):
    """``x / sqrt(mean(x ** 2) + eps) * weight`` over the last dimension: torch's RMSNorm, counted among the LayerNorms.

    mmengine's ``norm_decay_mult`` and initialisers, and tools that look for the norms of a model, know norms by their
    classes, and torch's own RMSNorm is none of them: stock schedules would decay its weights without a word.

    Args:
        num_features: Channels.
        eps: Added to the mean square; None is the smallest step of the dtype.
    """

    def __init__(self, num_features: int, eps: Optional[float] = None) -> None:
        super().__init__(num_features, eps=eps, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` to the same shape."""
        if torch.jit.is_tracing():  # TorchScript's ONNX exporter does not know rms_norm
            values = x.float()
            eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
            return (values * torch.rsqrt(values.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * self.weight
        if x.is_cuda and self.weight.dtype == torch.float32 and torch.is_autocast_enabled('cuda'):
            x = x.float()  # as autocast does for LayerNorm; the fused kernel takes one dtype
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


NORMS = {'LN': nn.LayerNorm, 'RMSNorm': RMSNorm}


def build_norm(cfg: dict, num_features: int) -> nn.Module:
    """Builds a norm over the last dimension.

    Args:
        cfg: ``dict(type='LN' | 'RMSNorm', eps=...)``; the type may also be a class that takes the number of channels.
            ``requires_grad=False`` freezes the norm's weights.
        num_features: Channels.

    Raises:
        OptionError: For an unknown name, and for an argument that the norm does not take.
    """
    cfg = dict(cfg)
    kind = cfg.pop('type', 'LN')
    requires_grad = cfg.pop('requires_grad', True)
    check_flags(requires_grad=requires_grad)
    cls = kind if isinstance(kind, type) else NORMS[checked_choice('norm', kind, tuple(NORMS))]
    if issubclass(cls, _NormBase):  # mmcv registers BN and IN
        raise OptionError(f'norm {kind!r} is one of maps, and tokens need one of channels: {", ".join(NORMS)}')
    norm = made('norm_cfg', cls, num_features, **cfg)
    return norm if requires_grad else norm.requires_grad_(False)
