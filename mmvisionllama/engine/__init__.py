"""What a training adds to mmengine's Runner: hooks and optimizers."""

from .hooks import (
    FullPrecisionOutputHook,
    MAEReconstructionHook,
    QuantizationAwareTrainingHook,
    ReseedHook,
    SampleHook,
    SoftMaskHook,
)
from .image_sizes import SizedDataPreprocessor, follow_image_sizes
from .optimizers import AutocastOptimWrapper, LayerDecayOptimWrapperConstructor
from .packed_inputs import PackedDataPreprocessor

__all__ = [
    'AutocastOptimWrapper',
    'FullPrecisionOutputHook',
    'LayerDecayOptimWrapperConstructor',
    'MAEReconstructionHook',
    'PackedDataPreprocessor',
    'QuantizationAwareTrainingHook',
    'ReseedHook',
    'SampleHook',
    'SizedDataPreprocessor',
    'SoftMaskHook',
    'follow_image_sizes',
]
