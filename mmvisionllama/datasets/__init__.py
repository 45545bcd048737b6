"""Data sets of the demos, checks of data sets, and transforms that the mm libraries lack."""

from ..errors import DataError
from .transforms import CheckSegFiles, ThreeAugment

__all__ = ['CheckSegFiles', 'DataError', 'ThreeAugment']
