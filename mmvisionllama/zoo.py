"""Models by name: every config that the package carries, built in one line, also from a wheel.

``import mmvisionllama`` offers :func:`list_models` and :func:`get_model` without importing this module before they are
used. mmpretrain's own hub learns the names by :func:`register_in_mmpretrain`.
"""

import difflib
import fnmatch
from collections import Counter
from pathlib import Path
from typing import Dict, List, Optional

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from .checkpoints import find_state_dict, load_strictly, read_checkpoint
from .errors import MissingExtraError
from .model_zoo import CONFIGS, config_path, list_configs

#: scope of a config -> the library that it needs
LIBRARIES = ('mmpretrain', 'mmseg', 'mmdet')


def _configs() -> Dict[str, str]:
    """Name of a model -> its config; names that two tasks share end in the task's folder."""
    configs = list_configs()
    count = Counter(Path(config).stem for config in configs)
    return {
        stem if count[stem] == 1 else f'{stem}_{Path(config).parts[0]}': config
        for stem, config in ((Path(config).stem, config) for config in configs)
    }


def list_models(pattern: str = '*') -> List[str]:
    """Names that :func:`get_model` takes, sorted.

    Args:
        pattern: Shell pattern that the whole name has to match.

    Examples:
        >>> 'visionllama-small-p16_8xb256-800e_in1k' in list_models('visionllama-small*')
        True
    """
    return sorted(fnmatch.filter(_configs(), pattern))


def get_model(name: str, pretrained: Optional[str] = None, backbone_only: bool = False) -> nn.Module:
    """Builds a model of the zoo, in evaluation mode.

    Args:
        name: One of :func:`list_models`.
        pretrained: File or address of a checkpoint of this config with all of the model's weights, read as
            :func:`read_checkpoint` does. One that the papers' authors published is converted first with
            ``tools/model_converters/released_to_mmvisionllama.py``. None: the random weights of the constructors.
        backbone_only: The backbone without its head, which needs torch and mmengine only.

    Raises:
        KeyError: There is no such model; the message names similar ones.
        MissingExtraError: The head's library is not installed.
        CheckpointError: The weights do not fit.
        ValueError: ``backbone_only`` for a model without a backbone (DiT, SiT), or together with ``pretrained``.
    """
    configs = _configs()
    if name not in configs:
        similar = difflib.get_close_matches(name, configs, n=3, cutoff=0.5)
        raise KeyError(f'no model {name}: {", ".join(similar) or "list_models() has the names"}')
    config = Config.fromfile(config_path(configs[name]))
    if backbone_only:
        if pretrained is not None:
            raise ValueError("weights for a backbone alone: load_pretrained(backbone, path, prefix='backbone.')")
        if 'backbone' not in config.model:
            raise ValueError(f'{name} has no backbone: it is a {config.model.type}')
        return MODELS.build(config.model.backbone).eval()
    scope = config.get('default_scope', 'mmengine')
    if scope in LIBRARIES:
        _require(scope, name)
        if config.get('data_preprocessor'):
            config.model.setdefault('data_preprocessor', config.data_preprocessor)
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(config.model)
    if pretrained is not None:
        load_strictly(model, find_state_dict(read_checkpoint(pretrained)), pretrained)
    return model.eval()


def _require(library: str, name: str) -> None:
    """Imports the library of a head."""
    try:
        __import__(library)
    except ImportError as error:
        raise MissingExtraError(
            f"{name} needs {library} ({error}): pip install 'mmvisionllama[onedl]', or backbone_only=True"
        ) from error


def register_in_mmpretrain() -> None:
    """Tells mmpretrain's hub the names, for ``mmpretrain.list_models``, ``get_model`` and ``inference_model``.

    Imports mmpretrain, which is why ``import mmvisionllama`` does not call it. Calling it again does nothing.

    Raises:
        MissingExtraError: mmpretrain is not installed.
    """
    _require('mmpretrain', "mmpretrain's hub")
    from mmpretrain.apis import ModelHub

    if not ModelHub.has('visionllama-small-p16_8xb256-800e_in1k'):
        ModelHub.register_model_index(CONFIGS.parent / 'model-index.yml', config_prefix=CONFIGS.parent)
