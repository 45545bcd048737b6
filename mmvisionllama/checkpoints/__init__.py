"""Reading, converting and loading checkpoints."""

from .family import ConvertedCheckpoint
from .reading import CheckpointError, find_state_dict, load_pretrained, read_checkpoint
from .released import convert_released

__all__ = [
    'CheckpointError',
    'ConvertedCheckpoint',
    'convert_released',
    'find_state_dict',
    'load_pretrained',
    'read_checkpoint',
]
