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
from .optimizers import AutocastOptimWrapper, LayerDecayOptimWrapperConstructor
from .sharding import FullyShardedModel

__all__ = [
    'AutocastOptimWrapper',
    'FullPrecisionOutputHook',
    'FullyShardedModel',
    'LayerDecayOptimWrapperConstructor',
    'MAEReconstructionHook',
    'PreemptionHook',
    'QuantizationAwareTrainingHook',
    'ReseedHook',
    'SafeCheckpointHook',
    'SampleHook',
    'SoftMaskHook',
]
