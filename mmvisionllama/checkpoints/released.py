"""Conversion of the published checkpoints: recognise the family, infer the architecture, rename the weights."""

from typing import Any

from torch import Tensor

from . import illama, mae, plain, pyramid
from .family import ConvertedCheckpoint, StateDict
from .reading import CheckpointError

#: the first family that matches is taken
FAMILIES = (plain.FAMILY, pyramid.FAMILY, illama.FAMILY, mae.FAMILY, mae.PLAIN_FAMILY)


def convert_released(state_dict: StateDict, **overrides: Any) -> ConvertedCheckpoint:
    """Converts a released state dict.

    Args:
        state_dict: Weights under the released code's keys.
        **overrides: What shapes cannot tell, e.g. ``num_heads`` or ``img_size``; each family's converter says which it
            takes.

    Returns:
        ConvertedCheckpoint: ``family``, ``model`` (a config that the registry builds) and ``state_dict`` (loads
        strictly into it).

    Raises:
        CheckpointError: If no family matches, weights are missing or an override is unknown.

    Examples:
        >>> converted = convert_released(find_state_dict(read_checkpoint('small.pth')))
        >>> model = mmpretrain.registry.MODELS.build(converted.model)
        >>> model.load_state_dict(converted.state_dict)
    """
    state_dict = {k: v for k, v in state_dict.items() if isinstance(v, Tensor)}
    for family in FAMILIES:
        if family.matches(state_dict):
            break
    else:
        raise CheckpointError(
            f'no released family has these keys ({", ".join(list(state_dict)[:4])}, ...): '
            f'known are {", ".join(family.name for family in FAMILIES)}'
        )
    options = dict(overrides)
    try:
        model, converted = family.convert(state_dict, options)
    except KeyError as error:
        raise CheckpointError(f'a checkpoint of family {family.name!r} lacks {error}: is it complete?') from error
    if options:
        known = ', '.join(family.overrides) or 'none'
        raise CheckpointError(f'family {family.name!r} does not take {", ".join(options)}: known are {known}')
    return ConvertedCheckpoint(family.name, model, converted)
