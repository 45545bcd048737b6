"""Masked image modelling."""

from .mae import MAEVisionLLaMA

__all__ = ['MAEVisionLLaMA']
