"""Conversion of the published checkpoints: recognise the family, infer the architecture, rename the weights."""

from typing import Any, Optional

from torch import Tensor

from ...errors import CheckpointError
from . import dit, illama, mae, plain, pyramid
from .family import ConvertedCheckpoint, Family, StateDict

#: the first family that matches is taken
FAMILIES = (plain.FAMILY, pyramid.FAMILY, illama.FAMILY, mae.FAMILY, mae.PLAIN_FAMILY, dit.FAMILY, dit.SIT_FAMILY)


def recognise(state_dict: StateDict, name: Optional[str] = None) -> Family:
    """The family of a state dict, or the one called ``name`` if the keys are that family's.

    Raises:
        CheckpointError: If no family matches, or several that only the caller can tell apart.
    """
    known = ', '.join(family.name for family in FAMILIES)
    if name is not None and name not in {family.name for family in FAMILIES}:
        raise CheckpointError(f'unknown family {name!r}: known are {known}')
    for family in FAMILIES:
        if name in (None, family.name) and family.matches(state_dict):
            break
    else:
        what = 'no released family has' if name is None else f'family {name!r} does not have'
        raise CheckpointError(f'{what} these keys ({", ".join(list(state_dict)[:4])}, ...): known are {known}')
    if name is None and family.twins:
        names = ' or '.join(f'family={twin!r}' for twin in (family.name, *family.twins))
        raise CheckpointError(f'these keys are shared by several families: say which one it is, {names}')
    return family


def convert_released(state_dict: StateDict, *, family: Optional[str] = None, **overrides: Any) -> ConvertedCheckpoint:
    """Converts a released state dict.

    Args:
        state_dict: Weights under the released code's keys.
        family: Name of the family, where the keys cannot tell it (``'dit'`` and ``'sit'``).
        **overrides: What shapes cannot tell, e.g. ``num_heads`` or ``img_size``; each family's converter says which it
            takes.

    Returns:
        ConvertedCheckpoint: ``family``, ``model`` (a config that the registry builds) and ``state_dict`` (loads
        strictly into it).

    Raises:
        CheckpointError: If no family matches, weights are missing or an override is unknown.

    Examples::

        converted = convert_released(find_state_dict(read_checkpoint('small.pth')))
        model = mmpretrain.registry.MODELS.build(converted.model)
        model.load_state_dict(converted.state_dict)
    """
    state_dict = {k: v for k, v in state_dict.items() if isinstance(v, Tensor)}
    found = recognise(state_dict, family)
    options = dict(overrides)
    try:
        model, converted = found.convert(state_dict, options)
    except KeyError as error:
        raise CheckpointError(f'a checkpoint of family {found.name!r} lacks {error}: is it complete?') from error
    if options:
        known = ', '.join(found.overrides) or 'none'
        raise CheckpointError(f'family {found.name!r} does not take {", ".join(options)}: known are {known}')
    return ConvertedCheckpoint(found.name, model, converted)
