"""The configs that the package carries, by name, from any folder and from a wheel as from a checkout.

``.mim`` holds them and the model index, where mmengine and mim look. Importing this module tells mmengine the package's
name, so that ``mmengine.hub.get_config('mmvisionllama::...')`` finds them (mmengine 0.10.7: in a wheel, not in an
editable install). Inheriting by name, ``_base_ = ['mmvisionllama::...']``, is of no use: mmengine then builds the model
in the scope of this package, which has no classifiers, segmentors or detectors of its own.
"""

import difflib
import fnmatch
from collections import Counter
from pathlib import Path
from typing import List, Set

from mmengine.config.utils import MODULE2PACKAGE

CONFIGS = Path(__file__).parent / '.mim' / 'configs'

MODULE2PACKAGE.setdefault('mmvisionllama', 'mmvisionllama')


def list_configs(pattern: str = '*') -> List[str]:
    """Names of the configs that can be trained, sorted.

    Args:
        pattern: Shell pattern that the whole name has to match; ``*`` also stands for slashes.

    Returns:
        Paths below ``configs/``, as ``'mmpretrain/quickstart/vision_llama_digits.py'``.

    Examples:
        >>> 'mmpretrain/quickstart/vision_llama_digits.py' in list_configs('mmpretrain/*')
        True
    """
    names = (path.relative_to(CONFIGS) for path in CONFIGS.rglob('*.py'))
    return sorted(name.as_posix() for name in names if name.parts[0] != '_base_' and fnmatch.fnmatch(name, pattern))


def shared_names() -> Set[str]:
    """File names, without their ending, that configs of more than one library have."""
    counts = Counter(Path(name).stem for name in list_configs())
    return {name for name, count in counts.items() if count > 1}


def config_path(name: str) -> str:
    """File of a config, for ``Config.fromfile`` and for tools that take a path.

    Args:
        name: One of :func:`list_configs`.

    Raises:
        FileNotFoundError: There is no such config; the message names similar ones.
    """
    path = CONFIGS / name
    if not path.is_file():
        similar = difflib.get_close_matches(name, list_configs(), n=3, cutoff=0.5)
        raise FileNotFoundError(f'no config {name}: {", ".join(similar) or "list_configs() has the names"}')
    return str(path)
