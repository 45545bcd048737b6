"""Every hook of this package, whatever task it serves."""

from .full_precision import FullPrecisionOutputHook
from .quantization_aware import QuantizationAwareTrainingHook
from .reconstruction import MAEReconstructionHook
from .reseed import ReseedHook
from .samples import SampleHook
from .soft_mask import SoftMaskHook

__all__ = [
    'FullPrecisionOutputHook',
    'MAEReconstructionHook',
    'QuantizationAwareTrainingHook',
    'ReseedHook',
    'SampleHook',
    'SoftMaskHook',
]
