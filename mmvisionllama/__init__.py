"""mmvisionllama: the VisionLLaMA family for OpenMMLab.

Importing the package registers its models, transforms and hooks in mmengine's root registries; it needs torch and
mmengine only.
"""

try:
    import mmengine  # noqa: F401
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        f'mmvisionllama needs torch and mmengine, and {error.name} is missing. Install torch (pytorch.org says how for '
        f"your CUDA version), then mmvisionllama with the maintained mm libraries, pip install 'mmvisionllama[onedl]', "
        f"or with OpenMMLab's own, pip install 'mmvisionllama[openmmlab]'"
    ) from error

from . import backbones
from .version import __version__

__all__ = ['__version__', 'backbones']
