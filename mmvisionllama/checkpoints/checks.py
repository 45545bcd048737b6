"""Checks of a checkpoint that need no look at its pickles: device, kind of file, size of what it holds."""

import os
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError


def check_claims(path: str, checkpoint: Any) -> None:
    """Raises a CheckpointError for tensors that repeat their elements (stride 0) to more than the file holds."""
    todo, seen, excess = [checkpoint], set(), 0
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            todo.extend(value.values())
        elif isinstance(value, (list, tuple, set)):
            todo.extend(value)
        elif type(value) in (Tensor, torch.nn.Parameter) and value.layout is torch.strided and not value.is_meta:
            excess += max(value.numel() * value.element_size() - value.untyped_storage().nbytes(), 0)
    if excess > os.path.getsize(path):
        raise CheckpointError(
            f'checkpoint {path!r} holds tensors of {excess / 2**20:,.0f} MiB more than is in the file: do not use it'
        )


def check_kind(path: str) -> None:
    """Raises a CheckpointError for files of safetensors under another name, and for their lists of parts."""
    with open(path, 'rb') as file:
        start = file.read(9)
    if start[8:] == b'{' and int.from_bytes(start[:8], 'little') <= os.path.getsize(path) - 8:
        raise CheckpointError(f'{path!r} holds safetensors: give it a name that ends in .safetensors')
    if path.endswith('.index.json'):
        raise CheckpointError(f'{path!r} lists the parts of a checkpoint: put them together into one .safetensors file')


def check_device(map_location: Any) -> None:
    """Raises a CheckpointError for a device that is not here, which is no fault of the file."""
    if not isinstance(map_location, (str, torch.device)):
        return
    try:
        torch.empty(0, device=map_location)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f'map_location {str(map_location)!r} cannot be used here ({reason}): leave it out'
        ) from error
