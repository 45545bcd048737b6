"""Models by name: every config that the package carries, built in one line, also from a wheel.

``import mmvisionllama`` offers :func:`list_models` and :func:`get_model` without importing this module before they are
used. mmpretrain's own hub learns the names as well, see :mod:`.mmpretrain_hub`.
"""

import difflib
import fnmatch
import functools
import hashlib
import importlib
import importlib.util
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Tuple, Union

import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from .checkpoints import convert_released, find_state_dict, load_strictly, read_checkpoint
from .checkpoints.loading import check_switches
from .checkpoints.reading import dataset_meta
from .errors import CheckpointError, MissingExtraError, OptionError
from .model_zoo import CONFIGS, config_path, list_configs
from .requirements import extra

#: scopes of configs that are libraries, too
LIBRARIES = ('mmpretrain', 'mmseg', 'mmdet')
#: where the wheel keeps configs, weights and the index of both
FOLDER = CONFIGS.parent
#: mmengine's default scope is the whole process's
_one_builder = threading.RLock()


def _configs() -> Dict[str, str]:
    """Name of a model -> its config; names that two tasks share end in the task's folder."""
    configs = list_configs()
    count = Counter(Path(config).stem for config in configs)
    return {
        stem if count[stem] == 1 else f'{stem}_{Path(config).parts[0]}': config
        for stem, config in ((Path(config).stem, config) for config in configs)
    }


@functools.lru_cache(maxsize=1)
def _sources() -> Dict[str, dict]:
    """Config -> entry of the index that says where its weights are: ``Weights`` of ours, or ``Converted From``."""
    found = {}
    for file in yaml.safe_load((FOLDER / 'model-index.yml').read_text())['Import']:
        for entry in yaml.safe_load((FOLDER / file).read_text())['Models']:
            if 'Weights' in entry or 'Converted From' in entry:
                found[entry['Config'].partition('/')[2]] = entry
    return found


def list_models(pattern: str = '*', pretrained: bool = False) -> List[str]:
    """Names that :func:`get_model` takes, sorted.

    Args:
        pattern: Shell pattern that the whole name has to match.
        pretrained: Only models whose weights come with the package or have an address.

    Examples:
        >>> 'visionllama-small-p16_8xb256-800e_in1k' in list_models('visionllama-small*')
        True
    """
    names = _configs()
    if pretrained:
        names = {name: config for name, config in names.items() if config in _sources()}
    return sorted(fnmatch.filter(names, pattern))


def get_model(
    name: str, pretrained: Union[bool, str] = False, backbone_only: bool = False, **overrides: Any
) -> nn.Module:
    """Builds a model of the zoo, in evaluation mode.

    Args:
        name: One of :func:`list_models`.
        pretrained: False: the random weights of the constructors. True: the weights that come with the package, or
            those that the papers' authors published, fetched and converted. Or the file or address of a checkpoint of
            this config with all of the model's weights (of the backbone alone for ``backbone_only``), read as
            :func:`read_checkpoint` does.
        backbone_only: The backbone without its head; those of this package need torch and mmengine only.
        **overrides: Merged into the model's config, as in mmpretrain: ``head=dict(num_classes=10)``.

    Returns:
        nn.Module: With ``dataset_meta`` where the weights name their classes.

    Raises:
        KeyError: There is no such model; the message names similar ones.
        MissingExtraError: The head's library is not installed, or that of a backbone of its own (ViT, Swin).
        CheckpointError: There are no weights, or they do not fit.
        ValueError: ``backbone_only`` for a model without a backbone (DiT, SiT), or with overrides of other parts.
    """
    configs = _configs()
    if name not in configs:
        similar = difflib.get_close_matches(name, configs, n=3, cutoff=0.5)
        raise KeyError(f'no model {name}: {", ".join(similar) or "list_models() has the names"}')
    config = config_of(name)
    if config.get('data_preprocessor') and config.get('default_scope') in LIBRARIES:  # to be merged into, not replaced
        config.model.setdefault('data_preprocessor', config.data_preprocessor)
    config.merge_from_dict(dict(model=overrides))
    if backbone_only:
        if 'backbone' not in config.model:
            raise ValueError(f'{name} has no backbone: it is a {config.model.type}')
        others = [key for key in overrides if key != 'backbone']
        if others:
            raise OptionError(
                f'backbone_only=True builds nothing of {others[0]!r}: give what is meant for it as backbone=dict(...)'
            )
    with _one_builder:
        model = _build_backbone(config, name) if backbone_only else _build(config, name)
    if pretrained:
        source = name if pretrained is True else pretrained
        checkpoint = _checkpoint_of(name, configs[name]) if source is name else read_checkpoint(source)
        weights = find_state_dict(checkpoint)
        if backbone_only:  # of the whole model, or a file of the backbone itself
            prefix = 'backbone.'
            inner = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
            weights = inner or weights
        load_strictly(model, weights, source)
        check_switches(model, checkpoint, source)
        classes = dataset_meta(checkpoint)
        if classes:
            model.dataset_meta = classes
    return model.eval()


def _build(config: Config, name: str) -> nn.Module:
    """The whole model of a config."""
    scope = config.get('default_scope', 'mmengine')
    if scope in LIBRARIES:
        _require(scope, name, ', or backbone_only=True')
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(config.model)


def _build_backbone(config: Config, name: str) -> nn.Module:
    """The backbone alone: this package's own without any library, ViT, Swin and the like by the one that has them."""
    backbone, scope = config.model.backbone, config.get('default_scope', 'mmengine')
    if not isinstance(backbone.type, str) or backbone.type in MODELS or scope not in LIBRARIES:
        return MODELS.build(backbone)
    _require(scope, f'the {backbone.type} of {name}')
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(backbone)


def _require(library: str, name: str, way_out: str = '') -> None:
    """Imports the models of a library."""
    try:
        importlib.import_module(f'{library}.models')
    except ImportError as error:
        is_there = sys.modules.get(library) or importlib.util.find_spec(library)  # without mmcv's operators, say
        advice = "'python -m mmvisionllama.doctor' says how" if is_there else f"pip install 'mmvisionllama[{extra()}]'"
        raise MissingExtraError(f'{name} needs {library} ({error}): {advice}{way_out}') from error


def _checkpoint_of(name: str, config: str) -> Dict[str, Any]:
    """Weights of the package with their classes, or the authors', converted."""
    entry = _sources().get(config)
    if entry is None:
        known = ', '.join(list_models(pretrained=True)) or 'none yet'
        raise CheckpointError(f'{name} has no weights here. Models with weights: {known}')
    if 'Weights' not in entry:
        published = read_checkpoint(entry['Converted From']['Weights'])
        return dict(state_dict=convert_released(find_state_dict(published)).state_dict)
    return read_checkpoint(str(_checked_file(entry)))


def _checked_file(entry: dict) -> Path:
    """Weights of the package, which have not changed."""
    file = FOLDER / entry['Weights']
    if hashlib.sha256(file.read_bytes()).hexdigest() != entry['SHA256']:
        raise CheckpointError(f'{file} is not the file that was published: install mmvisionllama again')
    return file


def config_of(name: str) -> Config:
    """The config of one of :func:`list_models`."""
    return Config.fromfile(config_path(_configs()[name]))


def config_and_weights(name: str) -> Tuple[Config, str]:
    """Config and file of weights that come with the package.

    Raises:
        CheckpointError: There are none of this name.
    """
    entry = _sources().get(_configs().get(name))
    if entry is None or 'Weights' not in entry:
        shipped = [known for known, config in _configs().items() if 'Weights' in _sources().get(config, {})]
        raise CheckpointError(f'no weights of {name!r} come with the package; those of {", ".join(sorted(shipped))} do')
    return config_of(name), str(_checked_file(entry))


def register_in_mmpretrain() -> None:
    """Tells mmpretrain's hub the names, for ``mmpretrain.list_models``, ``get_model`` and ``inference_model``.

    Called when the hub is asked for the first time, see :mod:`.mmpretrain_hub`. Calling it again does nothing.
    The names are those of ``model-index.yml``; mmpretrain builds what has its scope or needs none, and converts no
    weights.

    Raises:
        MissingExtraError: mmpretrain is not installed.
    """
    _require('mmpretrain', "mmpretrain's hub")
    from mmpretrain.apis import ModelHub

    if not ModelHub.has('visionllama-small-p16_8xb256-800e_in1k'):
        ModelHub.register_model_index(FOLDER / 'model-index.yml', config_prefix=FOLDER)
        for info in ModelHub._models_dict.values():
            if info.weights in {entry['Weights'] for entry in _sources().values() if 'Weights' in entry}:
                info.weights = str(FOLDER / info.weights)
