"""Reading checkpoint files, loading them strictly, and converting released ones."""

from ..errors import CheckpointError
from .loading import load_pretrained
from .reading import find_state_dict, read_checkpoint
from .released import ConvertedCheckpoint, convert_released

__all__ = [
    'CheckpointError',
    'ConvertedCheckpoint',
    'convert_released',
    'find_state_dict',
    'load_pretrained',
    'read_checkpoint',
]
