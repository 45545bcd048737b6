"""Reading checkpoint files: weights-only, with one clear error for each way a file can be wrong."""

import contextlib
import functools
import os
import pickle
import re
from collections import OrderedDict
from typing import Any, Callable, Dict
from urllib.parse import urlparse

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..moved import moved


def _renamed(function: Callable, module: str) -> Callable:
    """``function`` as if it came from ``module``."""

    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    wrapper.__module__ = module
    return wrapper


def _safe_globals():
    """Numpy and mmengine types that mmengine's own checkpoints store next to the weights."""
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer

    try:
        from numpy._core import multiarray
    except ImportError:  # numpy 1
        from numpy.core import multiarray
    types = [HistoryBuffer, np.ndarray, np.dtype]
    for function in (multiarray._reconstruct, multiarray.scalar):
        # numpy 1 and 2 write the same functions under different names; files of either are read under either
        types += [function, _renamed(function, 'numpy.core.multiarray'), _renamed(function, 'numpy._core.multiarray')]
    types += [type(np.dtype(name)) for name in ('float64', 'float32', 'int64', 'int32', 'uint32', 'bool')]
    # a HistoryBuffer names its methods through getattr; the unpickler calls only what stands in this list
    return types + [getattr, slice]


def _fetch(url: str) -> str:
    """Downloads a file into torch's hub folder, once, and returns its path."""
    folder = os.path.join(torch.hub.get_dir(), 'checkpoints')
    path = os.path.join(folder, os.path.basename(urlparse(url).path))
    if not os.path.isfile(path):
        os.makedirs(folder, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, path)
        except OSError as error:  # URLError and HTTPError are kinds of it
            raise CheckpointError(f'{url} cannot be fetched ({error}): check the address and the network') from error
    return path


def _read_safetensors(path: str) -> Dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(
            "reading .safetensors needs safetensors: pip install 'mmvisionllama[safetensors]'"
        ) from error
    try:
        return load_file(path)
    except Exception as error:
        raise CheckpointError(f'checkpoint {path!r} is damaged or truncated ({error}): fetch it again') from error


def _read_pickle(path: str, unsafe: bool) -> Any:
    # torch 2.4 knows no context manager for safe globals
    allow = getattr(torch.serialization, 'safe_globals', None)
    if allow is None:
        torch.serialization.add_safe_globals(_safe_globals())
        context = contextlib.nullcontext()
    else:
        context = allow(_safe_globals())
    try:
        with context:
            return torch.load(path, map_location='cpu', weights_only=not unsafe)
    except pickle.UnpicklingError as error:
        found = re.search(r'Unsupported (?:global|class)\S* (?:GLOBAL )?(\S+)', str(error))
        if found and not unsafe:
            raise CheckpointError(
                f'checkpoint {path!r} holds more than weights ({found[1]}), and unpickling that can run any code its '
                f'author put in. If you trust the file, allow it explicitly: unsafe=True, or --unsafe on the command '
                f'line'
            ) from error
        raise CheckpointError(
            f'{path!r} is damaged or no checkpoint (it cannot be unpickled): fetch it again'
        ) from error
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f'checkpoint {path!r} needs code that is not here ({error})') from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = re.split(r'[.\n]', str(error) or type(error).__name__)[0]
        raise CheckpointError(f'checkpoint {path!r} is damaged or truncated ({reason}): fetch it again') from error


def read_checkpoint(path: str, *, unsafe: bool = False) -> Dict[str, Any]:
    """Reads a checkpoint file to the CPU.

    Args:
        path: Local file (``.pth``, ``.pt`` or ``.safetensors``) or an http(s) address.
        unsafe: Allow arbitrary pickles. Unpickling can run any code that the file's author put in: use it only for
            files you trust. The published checkpoints of the paper need it (they store an argparse Namespace).

    Returns:
        dict: What the file holds.

    Raises:
        CheckpointError: If the file is missing, truncated or no checkpoint, or needs ``unsafe``.
    """
    path = os.fspath(path)
    if path.startswith(('http://', 'https://')):
        path = _fetch(path)
    if not os.path.isfile(path):
        raise CheckpointError(f'checkpoint {path!r} does not exist: check the path')
    checkpoint = _read_safetensors(path) if path.endswith('.safetensors') else _read_pickle(path, unsafe)
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'checkpoint {path!r} holds a {type(checkpoint).__name__}, not a dict of tensors')
    return checkpoint


def find_state_dict(
    checkpoint: Dict[str, Any], keys=('state_dict', 'model', 'model_state', 'ema')
) -> Dict[str, Tensor]:
    """The dict of tensors inside a checkpoint: the first of ``keys`` that is there, or the checkpoint itself.

    Raises:
        CheckpointError: If no tensor is found.
    """
    for key in keys:
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    state_dict = OrderedDict((k.removeprefix('module.'), v) for k, v in checkpoint.items() if isinstance(v, Tensor))
    if not state_dict:
        raise CheckpointError(f'no weights found: expected tensors or one of the keys {", ".join(keys)}')
    return state_dict


__getattr__ = moved(
    __name__,
    load_pretrained='checkpoints.loading',
)
