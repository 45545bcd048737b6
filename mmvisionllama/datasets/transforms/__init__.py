"""Transforms that the mm libraries lack."""

from .check_seg_files import CheckSegFiles
from .resize_to_tokens import ResizeToTokens
from .three_augment import ThreeAugment

__all__ = ['CheckSegFiles', 'ResizeToTokens', 'ThreeAugment']
