"""Models as files of other runtimes: one file for every batch and image size."""

from .export import TARGETS, Export, export, export_program
from .networks import export_network
from .runtimes import Session, load_exported, largest_difference

__all__ = [
    'TARGETS',
    'Export',
    'Session',
    'export',
    'export_network',
    'export_program',
    'largest_difference',
    'load_exported',
]
