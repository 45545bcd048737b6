"""What a converter of one released family is made of."""

from collections import OrderedDict
from typing import Any, Callable, Dict, Iterable, NamedTuple, Sequence, Tuple

from torch import Tensor

from ...errors import CheckpointError

StateDict = Dict[str, Tensor]


class ConvertedCheckpoint(NamedTuple):
    """A released checkpoint in this package's terms.

    Attributes:
        family (str): Name of the recognised family.
        model (dict): Config of a model that the registry builds.
        state_dict (dict): Its weights; they load strictly.
    """

    family: str
    model: Dict[str, Any]
    state_dict: StateDict


class Family(NamedTuple):
    """A family of released checkpoints.

    Attributes:
        name (str): Name shown to users.
        matches: Tells from the keys whether a state dict is of this family.
        convert: ``(state_dict, overrides)`` to ``(model config, state dict)``. It pops from ``overrides`` what it
            understands; what is left over is an error.
        overrides: Names that ``convert`` understands.
        twins: Families whose checkpoints have the same keys, so that the caller must name the one it is.
    """

    name: str
    matches: Callable[[StateDict], bool]
    convert: Callable[[StateDict, Dict[str, Any]], Tuple[Dict[str, Any], StateDict]]
    overrides: Sequence[str] = ()
    twins: Sequence[str] = ()


def rename(state_dict: StateDict, rules: Iterable[Tuple[str, str]], drop: Sequence[str] = ()) -> StateDict:
    """Applies every rule ``(old, new)`` to every key as a substring replacement, in order; leaves out ``drop``."""
    renamed = OrderedDict()
    for key, value in state_dict.items():
        if key in drop:
            continue
        for old, new in rules:
            key = key.replace(old, new)
        renamed[key] = value
    return renamed


def count_layers(state_dict: StateDict, prefix: str) -> int:
    """Number of consecutive indices 0, 1, ... that follow ``prefix`` in the keys."""
    found = {key[len(prefix) :].split('.')[0] for key in state_dict if key.startswith(prefix)}
    found = {int(index) for index in found if index.isdigit()}
    if found != set(range(len(found))):
        raise CheckpointError(f'blocks are missing: {prefix}N is there for N in {sorted(found)}')
    return len(found)


def heads_of(embed_dims: int, num_heads, head_dim: int = 64) -> int:
    """``num_heads`` if given, else the published head dim's count; shapes cannot tell it."""
    if num_heads is None:
        num_heads = embed_dims / head_dim
    elif num_heads < 1 or embed_dims % num_heads:
        raise CheckpointError(
            f'num_heads {num_heads} does not divide embed_dims {embed_dims}: give num_heads that does'
        )
    if num_heads != int(num_heads) or num_heads < 1 or embed_dims % int(num_heads):
        raise CheckpointError(
            f'the number of heads cannot be told from embed_dims {embed_dims} (the published head dim is {head_dim}): '
            f'give num_heads'
        )
    return int(num_heads)


def as_classifier(backbone: Dict[str, Any], body: StateDict, head: StateDict) -> Tuple[Dict[str, Any], StateDict]:
    """Config and weights of mmpretrain's classifier around a backbone.

    Args:
        backbone: Config of the backbone; see the family's converter.
        body: Weights under the classifier's keys (``backbone.*``).
        head: Weights of the linear layer, ``head.weight`` and ``head.bias``; may be empty.
    """
    model = dict(type='ImageClassifier', backbone=backbone)
    if head:
        model['head'] = dict(
            type='LinearClsHead',
            num_classes=head['head.weight'].shape[0],
            in_channels=head['head.weight'].shape[1],
            loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        )
        body = {**body, **{k.replace('head.', 'head.fc.', 1): v for k, v in head.items()}}
    return model, body
