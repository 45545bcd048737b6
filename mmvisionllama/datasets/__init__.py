"""Data sets of the demos, checks of data sets, and transforms that the mm libraries lack."""

from ..errors import DataError
from .token_budget import TokenBudgetBatchSampler
from .transforms import CheckSegFiles, ResizeToTokens, ThreeAugment

__all__ = ['CheckSegFiles', 'DataError', 'ResizeToTokens', 'ThreeAugment', 'TokenBudgetBatchSampler']
