"""Masked image modelling."""

from .hooks import MAEReconstructionHook
from .mae import MAEVisionLLaMA

__all__ = ['MAEReconstructionHook', 'MAEVisionLLaMA']
