"""What a training adds to mmengine's Runner: hooks and optimizers."""

from .hooks import (
    FullPrecisionOutputHook,
    MAEReconstructionHook,
    PreemptionHook,
    QuantizationAwareTrainingHook,
    ReseedHook,
    SafeCheckpointHook,
    SampleHook,
    SoftMaskHook,
)
from .image_sizes import SizedDataPreprocessor, follow_image_sizes
from .optimizers import AutocastOptimWrapper, LayerDecayOptimWrapperConstructor
from .packed_inputs import PackedDataPreprocessor
from .sharding import FullyShardedModel

__all__ = [
    'AutocastOptimWrapper',
    'FullPrecisionOutputHook',
    'FullyShardedModel',
    'LayerDecayOptimWrapperConstructor',
    'MAEReconstructionHook',
    'PackedDataPreprocessor',
    'PreemptionHook',
    'QuantizationAwareTrainingHook',
    'ReseedHook',
    'SafeCheckpointHook',
    'SampleHook',
    'SizedDataPreprocessor',
    'SoftMaskHook',
    'follow_image_sizes',
]
