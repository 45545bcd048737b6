"""Strict loading of a checkpoint's weights into a model, with advice about those that do not fit."""

import contextlib
import logging
from typing import Any, Dict, List, Optional

import torch
from mmengine.logging import print_log
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from ..errors import CheckpointError
from ..layers.block import TransformerBlock
from ..layers.layer_scale import LayerScale
from .reading import find_state_dict, read_checkpoint
from .released import FAMILIES


def _advice(state_dict: Dict[str, Tensor], otherwise: str) -> str:
    """What to do about a checkpoint whose keys are not the module's."""
    for family in FAMILIES:
        if family.matches(state_dict):
            return (
                f'It is a released checkpoint of family {family.name!r}: convert it first with '
                f'tools/model_converters/released_to_mmvisionllama.py'
            )
    return otherwise


def _shown(names: List[str], most: int = 6) -> str:
    return f'{", ".join(names[:most])}{" ..." if len(names) > most else ""}'


def check_weights(module: nn.Module, state_dict: Dict[str, Tensor], path: str) -> None:
    """Raises a CheckpointError for weights that are no numbers to compute with: NaN, infinite, integers, sparse.

    Args:
        module: The module that they are for. Its buffers may be infinite (masks).
        state_dict: Weights, of which those that the module has are looked at.
        path: Where they come from, for the message.
    """
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for name, own in module.state_dict().items():
        value = state_dict.get(name)
        if not isinstance(value, Tensor) or not isinstance(own, Tensor) or not own.is_floating_point():
            continue
        if not value.is_floating_point() or value.layout is not torch.strided or value.is_meta:
            kind = f'{value.dtype} ({value.layout})' if value.layout is not torch.strided else f'{value.dtype}'
            raise CheckpointError(f'{path!r}: {name} holds {kind}, and the model computes in {own.dtype}')
        wide = value.float() if value.element_size() == 1 else value
        if not (torch.isfinite(wide).all() if name in parameters else not torch.isnan(wide).any()):
            raise CheckpointError(
                f'{path!r}: {name} holds NaN or infinite values: use a checkpoint from before the training diverged'
            )


def is_optional(name: str) -> bool:
    """Whether a checkpoint may lack this entry, or have it in excess: counters of norms and settings of losses."""
    return name.endswith('num_batches_tracked') or any('loss' in part for part in name.split('.'))


def resampled(module: nn.Module, state_dict: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """The weights, with what the load hooks of the module and its parts resample in the place of other shapes."""
    own, hooked = module.state_dict(), dict(state_dict)
    for name, part in module.named_modules():
        for hook in part._load_state_dict_pre_hooks.values():
            # a position embedding of no square grid, say, does not fit
            with contextlib.suppress(AssertionError, RuntimeError, ValueError):
                hook(hooked, f'{name}.' if name else '', {}, False, [], [], [])
    # the hooks run again on loading: only what does not fit without them is taken from them
    return {
        key: value if key not in own or value.shape == own[key].shape else hooked.get(key, value)
        for key, value in state_dict.items()
    }


def fitting(module: nn.Module, state_dict: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """What fits a module by name and shape, that which its load hooks resample included."""
    own = module.state_dict()
    tried = resampled(module, {key: value for key, value in state_dict.items() if key in own})
    return {key: value for key, value in tried.items() if value.shape == own[key].shape}


def load_strictly(
    module: nn.Module, state_dict: Dict[str, Tensor], path: str, *, partial: bool = False, assign: bool = False
) -> Dict[str, Tensor]:
    """Fills a module from weights that have to be all of its own and nothing else.

    Args:
        module: The module to fill.
        state_dict: Weights.
        path: Where they come from, for messages.
        partial: Take what fits by name and shape, and log what did not.
        assign: As in ``Module.load_state_dict``.

    Returns:
        dict: The weights that were loaded.

    Raises:
        CheckpointError: For weights that are missing, in excess, of another shape or not finite, and for a partial
            loading in which nothing fits, or of whose sides only one has LayerScale.
    """
    check_weights(module, state_dict, path)
    own = module.state_dict()
    if partial:
        given, state_dict = state_dict, fitting(module, state_dict)
        if not state_dict:
            raise CheckpointError(f'{path!r} does not fit: none of its {len(given)} weights is one of the model')
        _check_layer_scale(module, given, path)
    try:
        missing, unexpected = module.load_state_dict(state_dict, strict=False, assign=assign)
    except (RuntimeError, ValueError) as error:  # the second of a position embedding that is no square
        if isinstance(error, CheckpointError):
            raise
        reason = ' '.join(str(error).split())[:400]
        raise CheckpointError(f'{path!r} does not fit the config: {reason}') from error
    if partial:
        left = [name for name in given if name not in state_dict]
        print_log(
            f'{path}: loaded {len(state_dict)} of {len(own)} tensors; initial values: {_shown(missing) or "none"}; '
            f'not used: {_shown(left) or "none"}',
            logger='current',
        )
        return state_dict
    missing, unexpected = ([name for name in names if not is_optional(name)] for names in (missing, unexpected))
    if missing or unexpected:
        wrong = [f'{len(missing)} are missing ({_shown(missing)})'] if missing else []
        wrong += [f"{len(unexpected)} are not the model's ({_shown(unexpected)})"] if unexpected else []
        wrong = f'{path!r} does not fit the config: of its weights {" and ".join(wrong)}'
        advice = _advice(state_dict, '')
        raise CheckpointError(f'{wrong}. {advice}' if advice else wrong)
    return state_dict


def _check_layer_scale(module: nn.Module, state_dict: Dict[str, Tensor], path: str) -> None:
    """Few elements, but without them, or with new ones of 1e-4, a block is another than the one that was trained."""
    for name, block in module.named_modules():
        prefix = f'{name}.' if name else ''
        if not isinstance(block, TransformerBlock) or not any(key.startswith(prefix) for key in state_dict):
            continue
        for branch in ('ls1', 'ls2'):
            own, stored = getattr(block, branch), state_dict.get(f'{prefix}{branch}.weight')
            if isinstance(own, LayerScale) == (stored is not None):
                continue
            factors = own.weight if stored is None else stored
            if (factors != 1).any():
                has, lacks = ('this model', 'the checkpoint') if stored is None else ('the checkpoint', 'this model')
                raise CheckpointError(
                    f'{path!r}: {has} has LayerScale ({prefix}{branch}.weight) and {lacks} has none: give the backbone '
                    f'the layer_scale_init_value that the weights were trained with (0 for none)'
                )


#: options of a backbone that change what it computes and no weight's name or shape, with their aliases
SWITCHES = {
    'cls_position': {'released': 'above_top_right', 'released-y0': 'top_right'},
    'mask_mode': {'released': 'multiplicative'},
    'rope_scale': {'released': 'none'},
}


def check_switches(module: nn.Module, checkpoint: Dict[str, Any], path: str) -> None:
    """Warns of converted weights in a model whose switches are not those that they were trained with.

    Args:
        module: Backbone, or a model with one.
        checkpoint: As it was read; the converter puts the config of the published model into ``meta``.
        path: Where it comes from, for the message.
    """
    meta = checkpoint.get('meta')
    model = meta.get('model') if isinstance(meta, dict) else None
    trained = model.get('backbone', model) if isinstance(model, dict) else {}
    backbone = getattr(module, 'backbone', module)
    if not isinstance(trained, dict):
        return
    trained = {name: SWITCHES[name].get(value, value) for name, value in trained.items() if name in SWITCHES}
    if not getattr(backbone, 'with_cls_token', True):
        trained.pop('cls_position', None)
    other = [name for name, value in trained.items() if getattr(backbone, name, value) != value]
    if other:
        wanted, here = (
            ', '.join(f'{name}={value(name)!r}' for name in other)
            for value in (trained.get, lambda name: getattr(backbone, name))
        )
        print_log(
            f'{path} was trained with {wanted}, and this backbone has {here}: it computes something else with these '
            f"weights. Published weights belong to the config whose name ends in '_released'",
            logger='current',
            level=logging.WARNING,
        )


def load_pretrained(
    module: nn.Module,
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
        CheckpointError: If nothing stands under the prefix, a shape differs, more than ``max_missing`` is missing, or
            only one of checkpoint and module has LayerScale (all 1 does nothing and may be missing). The module is left
            as it was.
    """
    file = read_checkpoint(path, unsafe=unsafe)
    checkpoint = state_dict = find_state_dict(file)
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
    state_dict = resampled(module, state_dict)
    wrong = [k for k, v in state_dict.items() if k in own and v.shape != own[k].shape]
    if wrong:
        shown = ', '.join(f'{k} {tuple(state_dict[k].shape)} for {tuple(own[k].shape)}' for k in wrong[:4])
        raise CheckpointError(
            f'{path!r} does not fit this model, {len(wrong)} tensors have another shape: {shown}'
            f'{" ..." if len(wrong) > 4 else ""}. Check arch, patch_size and in_channels'
        )
    check_weights(module, state_dict, path)
    missing = [k for k in own if k not in state_dict]
    unexpected = [k for k in state_dict if k not in own]
    total = sum(v.numel() for v in own.values()) or 1
    lost = sum(own[k].numel() for k in missing) / total
    if lost > max_missing:
        otherwise = f'Check the arch and the prefix (given: {prefix!r})'
        raise CheckpointError(
            f'{path!r} lacks {lost:.0%} of the weights of this {type(module).__name__} ({len(missing)} tensors: '
            f'{_shown(missing)}). {_advice(checkpoint, otherwise)}; its first keys are {unexpected[:4]}'
        )
    _check_layer_scale(module, state_dict, path)
    check_switches(module, file, path)
    module.load_state_dict(state_dict, strict=False)
    print_log(f'loaded {len(own) - len(missing)} of {len(own)} tensors from {path}', logger='current')
    for names, what in ((missing, 'not in the checkpoint, left at their initial values'), (unexpected, 'not used')):
        if names:
            print_log(f'{len(names)} tensors {what}: {", ".join(names)}', logger='current')


@WEIGHT_INITIALIZERS.register_module()
class StrictPretrained:
    """``init_cfg=dict(type='StrictPretrained', checkpoint=..., prefix='backbone.')``: :func:`load_pretrained`.

    This package's backbones use it for ``type='Pretrained'`` too.

    Args:
        checkpoint: File or address of the weights.
        prefix: As :func:`load_pretrained`, as are ``max_missing`` and ``unsafe``.
        map_location: Accepted as mmengine's initialiser accepts it; weights go where the module's are.
    """

    def __init__(
        self,
        checkpoint: str,
        prefix: Optional[str] = None,
        max_missing: float = 0.05,
        unsafe: bool = False,
        map_location: Optional[str] = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.options = dict(prefix=prefix, max_missing=max_missing, unsafe=unsafe)

    def __call__(self, module: nn.Module) -> None:
        load_pretrained(module, self.checkpoint, **self.options)
