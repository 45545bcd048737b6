"""Converters of the weights that the papers' authors released, one file per family."""

from .convert import FAMILIES, convert_released, recognise
from .family import ConvertedCheckpoint

__all__ = ['FAMILIES', 'ConvertedCheckpoint', 'convert_released', 'recognise']
