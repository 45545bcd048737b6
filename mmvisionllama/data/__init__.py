"""Data sets of the demos and transforms that the mm libraries lack."""

from .seg_files import CheckSegFiles, DataError
from .transforms import ThreeAugment

__all__ = ['CheckSegFiles', 'DataError', 'ThreeAugment']
