"""Every hook of this package, whatever task it serves."""

from .checkpoint_fit import CheckpointFitHook
from .full_precision import FullPrecisionOutputHook
from .quantization_aware import QuantizationAwareTrainingHook
from .reconstruction import MAEReconstructionHook
from .reseed import ReseedHook
from .samples import SampleHook
from .soft_mask import SoftMaskHook

__all__ = [
    'CheckpointFitHook',
    'FullPrecisionOutputHook',
    'MAEReconstructionHook',
    'QuantizationAwareTrainingHook',
    'ReseedHook',
    'SampleHook',
    'SoftMaskHook',
]
