"""Reading checkpoint files, loading them strictly, and converting released ones."""

from ..errors import CheckpointError
from . import mmengine_loader
from .loading import load_pretrained, load_strictly
from .reading import allow_unsafe, find_state_dict, read_checkpoint
from .released import ConvertedCheckpoint, convert_released

__all__ = [
    'CheckpointError',
    'ConvertedCheckpoint',
    'allow_unsafe',
    'convert_released',
    'find_state_dict',
    'load_pretrained',
    'load_strictly',
    'read_checkpoint',
]

mmengine_loader.install()
