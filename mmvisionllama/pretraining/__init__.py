"""Masked image modelling."""

from ..moved import moved
from .mae import MAEVisionLLaMA

__all__ = ['MAEVisionLLaMA']


__getattr__ = moved(
    __name__,
    MAEReconstructionHook='engine.hooks',
)
