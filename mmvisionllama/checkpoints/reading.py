"""Reading checkpoint files: weights-only, with one clear error for each way a file can be wrong."""

import contextlib
import os
import pickle
from collections import OrderedDict
from typing import Any, Dict, Optional

import torch
from torch import Tensor


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or does not fit; the message says what to do."""


def _safe_globals():
    """Numpy and mmengine types that mmengine's own checkpoints store next to the weights."""
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer

    core = np._core if hasattr(np, '_core') else np.core
    types = [HistoryBuffer, np.ndarray, np.dtype, core.multiarray._reconstruct, core.multiarray.scalar]
    types += [type(np.dtype(name)) for name in ('float64', 'float32', 'int64', 'int32', 'uint32', 'bool')]
    return types + [getattr, slice]


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
        from torch.hub import load_state_dict_from_url

        return load_state_dict_from_url(path, map_location='cpu', weights_only=not unsafe)
    if not os.path.isfile(path):
        raise CheckpointError(f'checkpoint {path!r} does not exist: check the path')
    if path.endswith('.safetensors'):
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise CheckpointError('reading .safetensors needs safetensors: pip install safetensors') from error
        try:
            return load_file(path)
        except Exception as error:
            raise CheckpointError(f'checkpoint {path!r} is damaged or truncated ({error}): fetch it again') from error
    # torch 2.4 knows no context manager for safe globals
    allow = getattr(torch.serialization, 'safe_globals', None)
    if allow is None:
        torch.serialization.add_safe_globals(_safe_globals())
        context = contextlib.nullcontext()
    else:
        context = allow(_safe_globals())
    try:
        with context:
            checkpoint = torch.load(path, map_location='cpu', weights_only=not unsafe)
    except pickle.UnpicklingError as error:
        if 'Unsupported global' in str(error) or 'Unsupported class' in str(error) or 'GLOBAL' in str(error):
            raise CheckpointError(
                f'checkpoint {path!r} holds more than weights, and unpickling it could run code: '
                f'{str(error).splitlines()[0]} If you trust the file, allow it explicitly '
                f'(unsafe=True, or --unsafe on the command line)'
            ) from error
        raise CheckpointError(f'checkpoint {path!r} is damaged or no checkpoint ({error}): fetch it again') from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f'checkpoint {path!r} is damaged or truncated ({reason}): fetch it again') from error
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


def load_pretrained(
    module: torch.nn.Module,
    path: str,
    prefix: Optional[str] = None,
    max_missing: float = 0.05,
    unsafe: bool = False,
) -> None:
    """Loads the weights of a module from a checkpoint of a larger model and says by name what did not fit.

    Args:
        module: The module to fill.
        path: Checkpoint, see :func:`read_checkpoint`.
        prefix: Keep only the keys under this prefix, e.g. ``'backbone.'``, and strip it.
        max_missing: Largest part of the module's elements that the checkpoint may lack.
        unsafe: See :func:`read_checkpoint`.

    Raises:
        CheckpointError: If nothing stands under the prefix, a shape differs, or more than ``max_missing`` is missing.
            The module is left as it was.
    """
    from mmengine.logging import print_log

    state_dict = find_state_dict(read_checkpoint(path, unsafe=unsafe))
    if prefix:
        prefix = prefix if prefix.endswith('.') else prefix + '.'
        found = {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
        if not found:
            heads = sorted({k.split('.')[0] for k in state_dict})
            raise CheckpointError(f'{path!r} has nothing under prefix {prefix!r}; its keys start with {heads}')
        state_dict = found
    own = module.state_dict()
    for hook in module._load_state_dict_pre_hooks.values():  # e.g. resizing a learnable position embedding
        hook(state_dict, '', {}, True, [], [], [])
    wrong = [k for k, v in state_dict.items() if k in own and v.shape != own[k].shape]
    if wrong:
        shown = ', '.join(f'{k} {tuple(state_dict[k].shape)} for {tuple(own[k].shape)}' for k in wrong[:4])
        raise CheckpointError(
            f'{path!r} does not fit this model, {len(wrong)} tensors have another shape: {shown}'
            f'{" ..." if len(wrong) > 4 else ""}. Check arch, patch_size and in_channels'
        )
    missing = [k for k in own if k not in state_dict]
    unexpected = [k for k in state_dict if k not in own]
    total = sum(v.numel() for v in own.values()) or 1
    lost = sum(own[k].numel() for k in missing) / total
    if lost > max_missing:
        shown = ', '.join(missing[:6]) + (' ...' if len(missing) > 6 else '')
        raise CheckpointError(
            f'{path!r} lacks {lost:.0%} of the weights of this {type(module).__name__} ({len(missing)} tensors: '
            f'{shown}). Check the arch and the prefix (given: {prefix!r}); its first keys are {unexpected[:4]}'
        )
    module.load_state_dict(state_dict, strict=False)
    print_log(f'loaded {len(own) - len(missing)} of {len(own)} tensors from {path}', logger='current')
    for names, what in ((missing, 'not in the checkpoint, left at their initial values'), (unexpected, 'not used')):
        if names:
            print_log(f'{len(names)} tensors {what}: {", ".join(names)}', logger='current')
