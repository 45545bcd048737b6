"""Importing what only deployment needs."""

import importlib
from types import ModuleType

from ..errors import MissingExtraError


def extra(name: str) -> ModuleType:
    """Imports a library of the extra ``deploy``.

    Raises:
        MissingExtraError: If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{error.name} is not installed: pip install 'mmvisionllama[deploy]'") from error
