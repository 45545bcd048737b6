"""Every hook of this package, whatever task it serves."""

from .checkpoint_fit import CheckpointFitHook
from .full_precision import FullPrecisionOutputHook
from .preemption import PreemptionHook
from .quantization_aware import QuantizationAwareTrainingHook
from .reconstruction import MAEReconstructionHook
from .reseed import ReseedHook
from .safe_checkpoint import SafeCheckpointHook
from .samples import SampleHook
from .soft_mask import SoftMaskHook
from .watch_files import WatchFilesHook

__all__ = [
    'CheckpointFitHook',
    'FullPrecisionOutputHook',
    'MAEReconstructionHook',
    'PreemptionHook',
    'QuantizationAwareTrainingHook',
    'ReseedHook',
    'SafeCheckpointHook',
    'SampleHook',
    'SoftMaskHook',
    'WatchFilesHook',
]
