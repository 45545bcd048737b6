"""Transforms that the mm libraries lack."""

from .check_seg_files import CheckSegFiles
from .three_augment import ThreeAugment

__all__ = ['CheckSegFiles', 'ThreeAugment']
