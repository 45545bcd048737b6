"""flash-attn's functions, of the version that is installed."""

import functools
import importlib
import importlib.util
import sys
from contextlib import suppress
from types import ModuleType
from typing import Optional


def flash_attention(dropout: float = 0.0) -> ModuleType:
    """Version 3 where it is installed, version 2 otherwise and for dropout, which 3 lacks.

    Raises:
        ImportError: Where neither is, or does not import.
    """
    if not dropout:
        with suppress(ImportError):
            return _imported('flash_attn_interface')
    return _imported('flash_attn')


def missing_flash_attention(dropout: float = 0.0) -> Optional[str]:
    """Why :func:`flash_attention` would raise."""
    try:
        flash_attention(dropout)
    except ImportError as error:
        return f'flash-attn does not import ({error}): pip install flash-attn --no-build-isolation'
    return None


def _imported(name: str) -> ModuleType:
    if name not in sys.modules and not _is_installed(name):
        raise ModuleNotFoundError(f'No module named {name!r}', name=name)
    return importlib.import_module(name)


@functools.cache
def _is_installed(name: str) -> bool:
    # once: a search in vain goes through all folders, and every call of attention asks
    return importlib.util.find_spec(name) is not None
