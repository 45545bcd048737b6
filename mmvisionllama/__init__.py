"""mmvisionllama: the VisionLLaMA family for OpenMMLab.

Importing the package registers its models, transforms and hooks in mmengine's root registries; it needs torch and
mmengine only.
"""

import importlib
from typing import Any

from . import mmpretrain_hub, moved, requirements
from .version import __version__

__all__ = ['__version__', 'get_model', 'list_models']

moved.install()
if requirements.met():
    mmpretrain_hub.install()
    from . import backbones, checkpoints, datasets, engine, generation, losses, model_zoo, necks, pretraining  # noqa: F401


def __getattr__(name: str) -> Any:
    """The zoo's functions, imported when they are used."""
    if name in ('get_model', 'list_models'):
        from . import zoo

        return getattr(zoo, name)
    if name in moved.MODULES:
        return importlib.import_module(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
