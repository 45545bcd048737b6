"""Training and testing: hooks, optimizer constructors and what the command-line tools share."""

from .autocast import AutocastOptimWrapper
from .full_precision import FullPrecisionOutputHook
from .layer_decay import LayerDecayOptimWrapperConstructor
from .quantization import QuantizationAwareTrainingHook
from .reseed import ReseedHook
from .soft_mask import SoftMaskHook

__all__ = [
    'AutocastOptimWrapper',
    'FullPrecisionOutputHook',
    'LayerDecayOptimWrapperConstructor',
    'QuantizationAwareTrainingHook',
    'ReseedHook',
    'SoftMaskHook',
]
