"""mmvisionllama: the VisionLLaMA family for OpenMMLab.

Importing the package registers its models, transforms and hooks in mmengine's root registries; it needs torch and
mmengine only.
"""

import sys

from .version import __version__

# python -m mmvisionllama.doctor must run exactly where torch or mmengine is missing
if 'mmvisionllama.doctor' not in sys.orig_argv:
    try:
        import mmengine  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f'mmvisionllama needs torch and mmengine, and importing {error.name} failed ({error}). Install torch '
            f'(pytorch.org says how for your CUDA version), then the maintained mm libraries, '
            f"pip install 'mmvisionllama[onedl]', or OpenMMLab's own, pip install 'mmvisionllama[openmmlab]'; "
            f'python -m mmvisionllama.doctor says what is there'
        ) from error
    from . import backbones, data, engine, generation, losses, necks, pretraining  # noqa: F401

__all__ = ['__version__']
