"""Data sets of the demos and transforms that the mm libraries lack."""

from .transforms import ThreeAugment

__all__ = ['ThreeAugment']
