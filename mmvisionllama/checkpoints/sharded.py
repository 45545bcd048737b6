"""Checkpoints in parts: folders to which every process of a sharded training writes what it holds.

``state.pth`` is an ordinary checkpoint with None in the place of each sharded tensor; those lie beside it in the format
of ``torch.distributed.checkpoint``. That keeps its list of tensors in a pickle and loads it as it is; here it may name
nothing but its own data classes.
"""

import contextlib
import copy
import inspect
import math
import os
import pickle
import shutil
import warnings
from pathlib import Path, PurePath
from typing import Any, Callable, Dict, Iterator, Optional, Tuple, Union

import torch
from torch import Tensor

from ..errors import CheckpointError
from .writing import PART, STATE, sync_folder

try:
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint import filesystem, metadata

    if 'no_dist' not in inspect.signature(dcp.load).parameters:
        dcp = None  # before torch 2.7 one process among several cannot read alone
except ImportError:
    dcp = None

LIST = '.metadata'

#: a tensor's place in a checkpoint, ``('optimizer', 'state', 3, 'exp_avg')``
Place = Tuple[Union[str, int], ...]
#: gives the tensors to read into, by name, for a checkpoint without its sharded ones
Targets = Callable[[Dict[str, Any]], Dict[str, Tensor]]

_targets: Optional[Targets] = None


def is_sharded(path: Union[str, Path]) -> bool:
    """Whether a folder is a checkpoint in parts, and written to its end."""
    return not str(path).endswith(PART) and all(os.path.isfile(os.path.join(path, name)) for name in (STATE, LIST))


def places(checkpoint: Any, wanted: Callable[[Any], bool], place: Place = ()) -> Iterator[Place]:
    """Places of the wanted values in nested dictionaries, in their order."""
    if isinstance(checkpoint, dict):
        for key, value in checkpoint.items():
            yield from places(value, wanted, (*place, key))
    elif wanted(checkpoint):
        yield place


def name_of(place: Place) -> str:
    """Name of a tensor in the list."""
    return '/'.join(map(str, place))


def value_at(checkpoint: Any, place: Place) -> Any:
    """The value at a place."""
    for key in place:
        checkpoint = checkpoint[key]
    return checkpoint


def put_at(checkpoint: Any, place: Place, value: Any) -> None:
    """Replaces the value at a place."""
    value_at(checkpoint, place[:-1])[place[-1]] = value


#: what holds tensors of a sharded model
TOPS = ('state_dict', 'ema_state_dict', 'optimizer')


def left_out(checkpoint: Dict[str, Any]) -> Dict[str, Place]:
    """Names and places of the tensors that lie in the parts."""
    found = {}
    for top in TOPS:
        entry = checkpoint.get(top, {})
        if top == 'optimizer':
            entry, start = entry.get('state', {}), (top, 'state')
        else:
            start = (top,)
        found.update((name_of(place), place) for place in places(entry, lambda value: value is None, start))
    return found


class _ListUnpickler(pickle.Unpickler):
    """Knows the data classes of a list of tensors and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        found = getattr(metadata, name, None) if module == metadata.__name__ else None
        if isinstance(found, type) and found.__module__ == module:  # not what the module imports itself
            return found
        if (module, name) == (filesystem.__name__, '_StorageInfo'):
            return filesystem._StorageInfo
        if (module, name) == ('torch', 'Size'):
            return torch.Size
        if (module, name) == ('torch.serialization', '_get_layout'):
            return torch.serialization._get_layout
        if module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module in ('pathlib', 'pathlib._local') and name.endswith('Path'):
            return PurePath
        raise pickle.UnpicklingError(f'it names {module}.{name}')


def read_list(path: Union[str, Path]) -> Any:
    """torch's ``Metadata`` of a folder, after a check that every tensor's bytes are there.

    Raises:
        CheckpointError: If it is damaged, names code or files elsewhere, claims tensors of more bytes than its parts
            have, or parts are missing or too short.
    """
    try:
        with open(os.path.join(path, LIST), 'rb') as file:
            found = _ListUnpickler(file).load()
        if not isinstance(found, metadata.Metadata) or not isinstance(found.storage_data, dict):
            raise pickle.UnpicklingError('it is no list of tensors')
        claimed = 0
        for tensor in found.state_dict_metadata.values():
            if not isinstance(tensor, metadata.TensorStorageMetadata):
                raise pickle.UnpicklingError('it lists more than tensors')
            claimed += math.prod(tensor.size) * tensor.properties.dtype.itemsize
        for info in found.storage_data.values():
            name = info.relative_path
            if os.path.basename(name) != name or name in ('', '.', '..'):
                raise pickle.UnpicklingError(f'it names the file {name!r}')
            if os.path.getsize(os.path.join(path, name)) < info.offset + info.length:
                raise OSError(f'{name} is too short')
        names = {info.relative_path for info in found.storage_data.values()}
        if claimed > sum(os.path.getsize(os.path.join(path, name)) for name in names):
            raise OSError(f'its tensors claim {claimed} bytes, more than its parts have')
    except Exception as error:  # whatever a damaged file leads to
        raise CheckpointError(f'checkpoint {str(path)!r} is damaged ({error}): take another one') from error
    return found


if dcp is not None:

    class _Reader(dcp.FileSystemReader):
        """torch's with :func:`read_list`."""

        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            found = read_list(self.path)
            if getattr(found, 'storage_meta', None) is None:
                found.storage_meta = metadata.StorageMeta()
            found.storage_meta.load_id = self.load_id
            return found


@contextlib.contextmanager
def reading_into(targets: Targets) -> Iterator[None]:
    """Within, parts are read into these tensors by all processes together, each its own share."""
    global _targets
    _targets = targets
    try:
        yield
    finally:
        _targets = None


def fill(path: str, checkpoint: Dict[str, Any]) -> Dict[str, Any]:
    """Puts the sharded tensors of a folder into its checkpoint: whole ones, or see :func:`reading_into`.

    Raises:
        CheckpointError: If the folder is damaged or has other tensors than its checkpoint.
    """
    if dcp is None:
        raise CheckpointError(f'checkpoint {path!r} is in parts, and reading them needs torch 2.7 or later')
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'checkpoint {path!r} holds a {type(checkpoint).__name__}, not a dict of tensors')
    found, wanted = read_list(path).state_dict_metadata, left_out(checkpoint)
    if set(found) != set(wanted):
        raise CheckpointError(f'checkpoint {path!r} is damaged (its parts hold other tensors): take another one')
    if _targets is None:
        tensors = {name: torch.empty(tensor.size, dtype=tensor.properties.dtype) for name, tensor in found.items()}
    else:
        tensors = _targets(checkpoint)
        for name, tensor in tensors.items():
            if tensor.shape != found[name].size:
                raise CheckpointError(
                    f'checkpoint {path!r} does not fit: {name} is {tuple(found[name].size)} in it and '
                    f'{tuple(tensor.shape)} in the model'
                )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # that one process reads alone
            dcp.load(tensors, storage_reader=_Reader(path), no_dist=_targets is None)
    except (dcp.api.CheckpointException, pickle.UnpicklingError, RuntimeError, ValueError, AssertionError) as error:
        failures = getattr(error, 'failures', None)
        reason = next(iter(failures.values()))[0] if failures else error
        raise CheckpointError(
            f'checkpoint {path!r} is damaged ({str(reason).splitlines()[0]:.200}): take another one'
        ) from error
    for name, place in wanted.items():
        put_at(checkpoint, place, tensors[name])
    return checkpoint


def take_out(checkpoint: Dict[str, Any], is_part: Callable[[Any], bool]) -> Dict[str, Tensor]:
    """Removes the sharded tensors from a checkpoint and returns them by name."""
    taken = {}
    for top in TOPS:
        entry = checkpoint.get(top, {})
        # dictionaries of the model and the optimizer stay as they are
        checkpoint[top] = copied = {**entry, 'state': _copied(entry['state'])} if 'state' in entry else _copied(entry)
        for place in list(places(copied, is_part)):
            taken[name_of((top, *place))] = value_at(copied, place)
            put_at(copied, place, None)
        if not copied:
            del checkpoint[top]
    return taken


def _copied(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    copied = copy.copy(entry)  # with the versions of the layers, an attribute
    for key, value in entry.items():
        copied[key] = _copied(value)
    return copied


def begin(folder: Path, is_first: bool) -> Path:
    """An empty folder to write the parts into."""
    part = folder.with_name(folder.name + PART)
    if is_first:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    return part


def save_parts(part: Path, tensors: Dict[str, Tensor]) -> None:
    """Writes this process's share; all processes have to call it.

    Raises:
        CheckpointError: In every process, if one of them cannot write, for example to a full disk.
    """
    try:
        dcp.save(tensors, storage_writer=dcp.FileSystemWriter(str(part)))
    except dcp.api.CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        raise CheckpointError(
            f'{str(part)[: -len(PART)]!r} could not be written ({first}): the files before it are intact; make room or '
            f'repair the disk and run the same command with --resume'
        ) from error


def finish(part: Path, folder: Path) -> None:
    """Checks what was written and gives it its name."""
    read_list(part)
    sync_folder(part)
    if folder.is_dir():
        shutil.rmtree(folder)
    elif os.path.lexists(folder):
        os.unlink(folder)  # an earlier training's, in one file
    os.replace(part, folder)
    sync_folder(folder.parent)
