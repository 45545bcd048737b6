"""mmvisionllama: the VisionLLaMA family for OpenMMLab.

Importing the package registers its models, transforms and hooks in mmengine's root registries; it needs torch and
mmengine only.
"""

from . import moved, requirements
from .version import __version__

__all__ = ['__version__']

moved.install()
if requirements.met():
    from . import backbones, checkpoints, datasets, engine, generation, losses, necks, pretraining  # noqa: F401
