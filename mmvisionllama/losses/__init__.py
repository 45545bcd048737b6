"""Losses, registered in mmengine's root registry."""

from .binary_cross_entropy import BinarizedCrossEntropyLoss

__all__ = ['BinarizedCrossEntropyLoss']
