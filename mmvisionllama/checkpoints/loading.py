"""Strict loading of a checkpoint's weights into a model, with advice about those that do not fit."""

from typing import Dict, Optional

from mmengine.logging import print_log
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from ..errors import CheckpointError
from .reading import find_state_dict, read_checkpoint
from .released import FAMILIES


def _advice(state_dict: Dict[str, Tensor], prefix: Optional[str]) -> str:
    """What to do about a checkpoint whose keys are not the module's."""
    for family in FAMILIES:
        if family.matches(state_dict):
            return (
                f'It is a released checkpoint of family {family.name!r}: convert it first with '
                f'tools/model_converters/released_to_mmvisionllama.py'
            )
    return f'Check the arch and the prefix (given: {prefix!r})'


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
        CheckpointError: If nothing stands under the prefix, a shape differs, or more than ``max_missing`` is missing.
            The module is left as it was.
    """
    checkpoint = state_dict = find_state_dict(read_checkpoint(path, unsafe=unsafe))
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
            f'{shown}). {_advice(checkpoint, prefix)}; its first keys are {unexpected[:4]}'
        )
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
