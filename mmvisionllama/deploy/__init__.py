"""Models as files of other runtimes, one file for every batch and image size, and one way to predict with all."""

from .export import TARGETS, Export, check_target, export, export_program, target_path, written_aside
from .networks import export_network
from .predictor import Predictor
from .runtimes import Session, largest_difference, load_exported

__all__ = [
    'TARGETS',
    'Export',
    'Predictor',
    'Session',
    'check_target',
    'export',
    'export_network',
    'export_program',
    'largest_difference',
    'load_exported',
    'target_path',
    'written_aside',
]
