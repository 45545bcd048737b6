"""What a training adds to mmengine's Runner: hooks and optimizers."""

from .hooks import (
    FullPrecisionOutputHook,
    MAEReconstructionHook,
    QuantizationAwareTrainingHook,
    ReseedHook,
    SampleHook,
    SoftMaskHook,
)
from .optimizers import AutocastOptimWrapper, LayerDecayOptimWrapperConstructor

__all__ = [
    'AutocastOptimWrapper',
    'FullPrecisionOutputHook',
    'LayerDecayOptimWrapperConstructor',
    'MAEReconstructionHook',
    'QuantizationAwareTrainingHook',
    'ReseedHook',
    'SampleHook',
    'SoftMaskHook',
]
