"""Normalisation layers by config, as in mmcv, without needing mmcv for the two that the papers use."""

from mmengine.registry import MODELS
from torch import nn

NORMS = {'LN': nn.LayerNorm, 'RMSNorm': nn.RMSNorm}


def build_norm(cfg: dict, num_features: int) -> nn.Module:
    """Builds a norm over the last dimension.

    Args:
        cfg: ``dict(type='LN' | 'RMSNorm', eps=...)``, or any norm registered in mmengine's ``MODELS``.
        num_features: Channels.
    """
    cfg = dict(cfg)
    name = cfg.pop('type', 'LN')
    cfg.pop('requires_grad', None)
    norm = NORMS.get(name) or MODELS.get(name)
    if norm is None:
        raise ValueError(f'unknown norm {name!r}: choose one of {", ".join(map(repr, NORMS))} or a registered one')
    return norm(num_features, **cfg)
