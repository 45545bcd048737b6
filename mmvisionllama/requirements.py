"""What the package cannot do without, and what happens where it is missing."""

import importlib.abc
import importlib.metadata
import sys
from typing import Any

PACKAGE = __name__.rpartition('.')[0]
#: what works without torch and mmengine, to say what is missing
FREE = ('doctor', 'errors', 'moved', 'requirements', 'version')


class MissingRequirement(importlib.abc.MetaPathFinder):
    """Answers every import of a part of the package with what to install."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        package, _, name = fullname.partition('.')
        if package == PACKAGE and name and name not in FREE:
            name = getattr(self.error, 'name', None) or 'one of them'
            raise ImportError(
                f'{PACKAGE} needs torch and mmengine, and importing {name} failed ({self.error}). Install '
                f'torch (pytorch.org says how for your CUDA version), then the maintained mm libraries, '
                f"pip install '{PACKAGE}[onedl]', or OpenMMLab's own, pip install '{PACKAGE}[openmmlab]'; "
                f'python -m {PACKAGE}.doctor says what is there'
            ) from self.error


def met() -> bool:
    """Whether torch and mmengine import; if not, importing any part of the package but the doctor says so."""
    try:
        import mmengine  # noqa: F401
        import torch  # noqa: F401
    except Exception as error:  # a broken build can raise anything
        sys.meta_path.insert(0, MissingRequirement(error))
        return False
    return True


def extra() -> str:
    """The extra with the distributions of the mm libraries that are here: the two lines overwrite each other."""
    try:
        importlib.metadata.version('mmengine')
    except importlib.metadata.PackageNotFoundError:
        return 'onedl'
    return 'openmmlab'
