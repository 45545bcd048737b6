"""Earlier import paths, which still work: they hand on to the modules where things live now."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Dict, Optional, Sequence

ROOT = __name__.rpartition('.')[0]

#: module that is no more -> modules that have what it had, the first one first
MODULES: Dict[str, Sequence[str]] = {
    'analysis.calibration': ('analysis.confidence_calibration', 'visualization.analyses'),
    'analysis.predictions': ('analysis.classification', 'launch.classifier'),
    'analysis.quantization': ('quantization',),
    'checkpoints.dit': ('checkpoints.released.dit',),
    'checkpoints.family': ('checkpoints.released.family',),
    'checkpoints.illama': ('checkpoints.released.illama',),
    'checkpoints.mae': ('checkpoints.released.mae',),
    'checkpoints.plain': ('checkpoints.released.plain',),
    'checkpoints.pyramid': ('checkpoints.released.pyramid',),
    'data': ('datasets',),
    'data.coco_files': ('datasets.coco_files',),
    'data.digit_scenes': ('datasets.digit_scenes',),
    'data.digits': ('datasets.digits',),
    'data.seg_files': ('datasets.transforms.check_seg_files', 'datasets.checks', 'datasets.pictures'),
    'data.transforms': ('datasets.transforms.three_augment',),
    'engine.autocast': ('engine.optimizers.autocast',),
    'engine.flops': ('analysis.flops',),
    'engine.full_precision': ('engine.hooks.full_precision',),
    'engine.launch': ('launch', 'launch.testing', 'launch.config', 'datasets.checks'),
    'engine.layer_decay': ('engine.optimizers.layer_decay',),
    'engine.quantization': ('engine.hooks.quantization_aware',),
    'engine.reseed': ('engine.hooks.reseed',),
    'engine.soft_mask': ('engine.hooks.soft_mask',),
    'generation.data': ('generation.labelled_images',),
    'generation.hooks': ('engine.hooks.samples',),
    'generation.sampling': ('generation.sample_set',),
    'layers.causal': ('layers.causal_attention', 'layers'),
    'layers.local_global': ('layers.subsampled_attention', 'layers.position_calibration', 'layers'),
    'layers.window': ('layers.window_attention', 'layers'),
    'pretraining.hooks': ('engine.hooks.reconstruction',),
    'visualization.predictions': ('visualization.prediction_grid',),
}


def moved(owner: str, **names: str) -> Callable[[str], Any]:
    """``__getattr__`` of a module that some names have left.

    Args:
        owner: ``__name__`` of the module.
        **names: Name -> module of this package where it is now.
    """

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f'module {owner!r} has no attribute {name!r}')
        _warn(f'{owner}.{name}', f'{ROOT}.{names[name]}')
        return getattr(importlib.import_module(f'{ROOT}.{names[name]}'), name)

    return __getattr__


class MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of :data:`MODULES`, each as a module that looks names up where they are now."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Optional[Any]:
        name = fullname.removeprefix(f'{ROOT}.')
        if not fullname.startswith(f'{ROOT}.') or name not in MODULES:
            return None
        is_package = any(other.startswith(f'{name}.') for other in MODULES)
        origin = Path(__file__).parent.joinpath(*MODULES[name][0].split('.'))
        return importlib.machinery.ModuleSpec(fullname, self, origin=f'{origin}.py', is_package=is_package)

    def get_code(self, fullname: str) -> Any:
        """For ``python -m``: runs the module where it is now."""
        target = f'{ROOT}.{MODULES[fullname.removeprefix(f"{ROOT}.")][0]}'
        return compile(f'import runpy; runpy.run_module({target!r}, run_name="__main__")', fullname, 'exec')

    def exec_module(self, module: ModuleType) -> None:
        targets = [f'{ROOT}.{target}' for target in MODULES[module.__name__.removeprefix(f'{ROOT}.')]]
        _warn(module.__name__, targets[0])
        found = [importlib.import_module(target) for target in targets]

        def __getattr__(name: str) -> Any:
            for target in found:
                if hasattr(target, name):
                    return getattr(target, name)
            raise AttributeError(f'module {module.__name__!r} has no attribute {name!r}')

        module.__getattr__ = __getattr__
        module.__doc__ = found[0].__doc__


def _warn(old: str, new: str) -> None:
    warnings.warn(f'{old} is an earlier name of {new}: import from there', DeprecationWarning, stacklevel=3)


def install() -> None:
    """Makes the earlier import paths work."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
