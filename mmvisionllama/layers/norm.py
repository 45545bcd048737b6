"""Normalisation layers by config, as in mmcv."""

from torch import nn

from .options import checked_choice

NORMS = {'LN': nn.LayerNorm, 'RMSNorm': nn.RMSNorm}


def build_norm(cfg: dict, num_features: int) -> nn.Module:
    """Builds a norm over the last dimension.

    Args:
        cfg: ``dict(type='LN' | 'RMSNorm', eps=...)``; the type may also be a class that takes the number of channels.
            ``requires_grad=False`` freezes the norm's weights.
        num_features: Channels.

    Raises:
        ValueError: For an unknown name.
    """
    cfg = dict(cfg)
    kind = cfg.pop('type', 'LN')
    requires_grad = cfg.pop('requires_grad', True)
    norm = (kind if isinstance(kind, type) else NORMS[checked_choice('norm', kind, tuple(NORMS))])(num_features, **cfg)
    return norm if requires_grad else norm.requires_grad_(False)
