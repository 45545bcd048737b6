"""Reading checkpoint files: weights-only, with one clear error for each way a file can be wrong."""

import contextlib
import io
import json
import os
import pickle
import re
import threading
import warnings
import zipfile
from collections import OrderedDict
from typing import Any, Dict, Iterator, Optional

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..moved import moved
from . import fetching, sharded
from .checks import check_claims, check_device, check_kind
from .unpickling import Look, safe_globals

#: environment variable that allows arbitrary pickles, for programs without an option of their own
UNSAFE = 'MMVISIONLLAMA_UNSAFE'

#: the number that files of torch before 1.6 begin with, pickled
OLD_FORMAT = b'\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'

HOW_TO_ALLOW = (
    f'unsafe=True or mmvisionllama.checkpoints.allow_unsafe() in Python, --unsafe on the command line, or {UNSAFE}=1 '
    f'in the environment'
)


#: bytes of an element by the storage's name in a file
ITEM_SIZES = {
    **dict.fromkeys(('ByteStorage', 'CharStorage', 'BoolStorage', 'QUInt8Storage', 'QInt8Storage'), 1),
    **dict.fromkeys(('QUInt4x2Storage', 'QUInt2x4Storage', 'UntypedStorage'), 1),
    **dict.fromkeys(('HalfStorage', 'BFloat16Storage', 'ShortStorage'), 2),
    **dict.fromkeys(('FloatStorage', 'IntStorage', 'QInt32Storage'), 4),
    **dict.fromkeys(('DoubleStorage', 'LongStorage', 'ComplexFloatStorage'), 8),
    'ComplexDoubleStorage': 16,
}


def allow_unsafe(allow: bool = True) -> None:
    """Allows, or forbids again, arbitrary pickles in every checkpoint that this process and those it starts read.

    Unpickling can run any code that a file's author put in: only for files you trust. It holds for what mmengine loads
    too, see :mod:`mmvisionllama.checkpoints.mmengine_loader`.
    """
    os.environ[UNSAFE] = '1' if allow else '0'


def unsafe_allowed() -> bool:
    """Whether :func:`allow_unsafe` or the environment allows arbitrary pickles."""
    return os.environ.get(UNSAFE, '0') not in ('', '0')


def _damaged(path: str, reason: Any) -> CheckpointError:
    first = re.split(r'[.:]?\s*\n|\. ', str(reason) or type(reason).__name__)[0][:200]
    return CheckpointError(f'checkpoint {path!r} is damaged or truncated ({first}): fetch it again')


def _harmful(path: str, code: str) -> CheckpointError:
    return CheckpointError(
        f'checkpoint {path!r} is more than weights: it names {code}, which can run any code on this machine when the '
        f'file is unpickled. Do not use it unless you made it yourself'
    )


def _no_checkpoint(path: str) -> CheckpointError:
    return CheckpointError(f'{path!r} is damaged or no checkpoint (it cannot be unpickled): fetch it again')


def _read_safetensors(path: str, map_location: Any) -> Dict[str, Any]:
    """Tensors; with ``meta``, as a Runner saves it, where the file says ``dataset_meta`` (classes), as JSON."""
    try:
        from safetensors import safe_open
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(
            "reading .safetensors needs safetensors: pip install 'mmvisionllama[safetensors]'"
        ) from error
    device = str(map_location) if isinstance(map_location, (str, torch.device)) else 'cpu'
    try:
        tensors = load_file(path, device=device)
        with safe_open(path, 'pt') as file:
            dataset_meta = json.loads((file.metadata() or {}).get('dataset_meta', '{}'))
        if not isinstance(dataset_meta, dict):
            raise ValueError('its dataset_meta is no dictionary')
        if isinstance(dataset_meta.get('palette'), list):  # JSON has no tuples, and mmengine draws with no list
            dataset_meta['palette'] = [tuple(colour) for colour in dataset_meta['palette']]
        return dict(state_dict=tensors, meta=dict(dataset_meta=dataset_meta)) if dataset_meta else tensors
    except Exception as error:
        raise _damaged(path, error) from error


def _check_archive(path: str) -> Dict[str, int]:
    """Sizes of the parts of a zip archive by name, after their checksums.

    Raises:
        CheckpointError: For an archive that is damaged, unpacks to more than it is, or is a program.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            sizes = {entry.filename: entry.file_size for entry in entries}
            unpacked = sum(entry.file_size for entry in entries)
            if len(sizes) != len(entries) or any(name.split('/')[-1] == 'constants.pkl' for name in sizes):
                raise CheckpointError(f'{path!r} is a program (TorchScript) or made by hand, not a checkpoint')
            if not any(name.endswith('/data.pkl') for name in sizes):
                raise CheckpointError(f'{path!r} is a zip archive but no checkpoint')
            if unpacked > os.path.getsize(path):
                raise CheckpointError(
                    f'checkpoint {path!r} unpacks to {unpacked / 2**20:,.0f} MiB from '
                    f'{os.path.getsize(path) / 2**20:,.0f} MiB: torch never compresses checkpoints, do not use it'
                )
            for entry in entries:
                if not entry.CRC:  # torch can be told to write none
                    continue
                with archive.open(entry) as part:
                    while part.read(1 << 20):
                        pass
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise _damaged(path, error) from error
    return sizes


def _pickles(path: str, sizes: Optional[Dict[str, int]]) -> Iterator[Look]:
    """A look at each pickle of a checkpoint; those of the format before torch 1.6 lie one after the other."""
    if sizes is None:
        with open(path, 'rb') as file:
            start = file.read(1 << 18)
            if OLD_FORMAT not in start[:40]:  # no checkpoint, but perhaps a pickle that does harm
                yield Look(io.BytesIO(start))
                return
            file.seek(0)
            for _ in range(4):  # magic number, version, system, content
                yield Look(file)
    else:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith('.pkl'):
                    if not entry.CRC:
                        del entry.CRC  # none was written: zipfile shall not compare
                    yield Look(io.BytesIO(archive.read(entry)))


def _check_pickles(path: str, sizes: Optional[Dict[str, int]]) -> None:
    """Raises a CheckpointError for a pickle that names code, or a storage that is not as large as it says."""
    for look in _pickles(path, sizes):
        broken = None
        try:
            look.load()
        except Exception as error:  # whatever a damaged file leads to
            broken = error
        if look.code():
            raise _harmful(path, look.code())
        if broken is not None and sizes is None:
            break  # torch says what is wrong with it
        if broken is not None:
            raise _damaged(path, broken) from broken
        if sizes is not None:
            _check_storages(path, look, sizes)
    if sizes is None and not _starts_with(path, OLD_FORMAT, 40):
        raise _no_checkpoint(path)


def _check_storages(path: str, look: Look, sizes: Dict[str, int]) -> None:
    # torch < 2.6 takes the pickle's word for a storage's size and reads what lies behind it in memory
    by_key = {name.rsplit('/data/', 1)[1]: size for name, size in sizes.items() if '/data/' in name}
    for pid in look.storages:
        try:
            _, kind, key, _, count = pid
            claimed = count * ITEM_SIZES[kind.__name__]
            lacks = claimed > by_key[key]
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise _damaged(path, f'it has no storage {pid!r:.80}') from error
        if lacks:
            raise _damaged(path, f'a tensor claims {claimed} bytes of storage {key!r}, which has {by_key[key]}')


#: torch's list of safe globals and Python's of warnings are the whole process's
_one_reader = threading.RLock()


def _read_pickle(path: str, unsafe: bool, map_location: Any) -> Any:
    sizes = _check_archive(path) if zipfile.is_zipfile(path) and _starts_with(path, b'PK') else None
    if not unsafe:
        _check_pickles(path, sizes)
    try:
        with _one_reader, warnings.catch_warnings(), contextlib.nullcontext() if unsafe else safe_globals():
            warnings.simplefilter('ignore')  # about the pickle's protocol; what does not work is an error
            checkpoint = torch.load(path, map_location=map_location, weights_only=not unsafe)
    except (pickle.UnpicklingError, LookupError, TypeError, AssertionError) as error:
        found = re.search(r'[Uu]nsupported (?:global|class|GLOBAL)\S* (?:GLOBAL )?(\S+\([^\n]*?\)|\S+)', str(error))
        if found and found[1].startswith('builtins.getattr('):
            raise _harmful(path, found[1]) from error
        if found and not unsafe:
            raise CheckpointError(
                f'checkpoint {path!r} holds more than weights ({found[1]}), and unpickling that can run any code its '
                f'author put in. If you trust the file, allow it: {HOW_TO_ALLOW}'
            ) from error
        raise _no_checkpoint(path) from error
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f'checkpoint {path!r} needs code that is not here ({error})') from error
    except MemoryError as error:
        raise _damaged(path, 'it asks for more memory than there is') from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    check_claims(path, checkpoint)
    return checkpoint


def _starts_with(path: str, magic: bytes, within: Optional[int] = None) -> bool:
    """Whether these bytes stand at the beginning of a file, or among its first ones."""
    with open(path, 'rb') as file:
        return magic in file.read(within or len(magic))


def dataset_meta(checkpoint: Dict[str, Any]) -> Dict[str, Any]:
    """Classes and palette that a checkpoint names, as a Runner saves them; empty without."""
    meta = checkpoint.get('meta')
    found = meta.get('dataset_meta') if isinstance(meta, dict) else None
    return found if isinstance(found, dict) else {}


def local_file(path: str) -> str:
    """The file, or folder of parts, that a path or address means, fetched if it has to be.

    Raises:
        CheckpointError: If there is none, or the address is of a kind that is not fetched.
    """
    path = os.fspath(path)
    if fetching.is_address(path):
        return fetching.fetch(path)
    path = os.path.expanduser(path)
    if os.path.isfile(path) or sharded.is_sharded(path):
        return path
    if os.path.isdir(path):
        raise CheckpointError(f'checkpoint {path!r} is a folder: name a file in it')
    scheme = re.match(r'[A-Za-z][\w+.-]*://', path)
    if scheme:
        raise CheckpointError(
            f'checkpoint {path!r}: addresses of kind {scheme[0]} are not fetched: download the file and give its path'
        )
    raise CheckpointError(f'checkpoint {path!r} does not exist: check the path')


def read_checkpoint(path: str, *, unsafe: bool = False, map_location: Any = 'cpu') -> Dict[str, Any]:
    """Reads a checkpoint file.

    The checksums of torch's archives are compared, tensors may not claim more than the file holds, and a file whose
    name ends in ``.safetensors`` is never unpickled.

    Args:
        path: Local file (``.pth``, ``.pt`` or ``.safetensors``), a folder of parts (:mod:`.sharded`) or an http(s)
            address.
        unsafe: Allow arbitrary pickles. Unpickling can run any code that the file's author put in: use it only for
            files you trust. The argparse Namespace of published checkpoints is read without it.
        map_location: As in ``torch.load``.

    Returns:
        dict: What the file holds.

    Raises:
        CheckpointError: If the file is missing, damaged or no checkpoint, or needs ``unsafe``.
    """
    check_device(map_location)
    given, path = os.fspath(path), local_file(path)
    try:
        if os.path.isdir(path):
            checkpoint = _read_pickle(os.path.join(path, sharded.STATE), unsafe or unsafe_allowed(), map_location)
            sharded.fill(path, checkpoint)
        elif path.lower().endswith('.safetensors'):
            checkpoint = _read_safetensors(path, map_location)
        else:
            check_kind(path)
            checkpoint = _read_pickle(path, unsafe or unsafe_allowed(), map_location)
    except CheckpointError as error:
        if not fetching.is_address(given):
            raise
        reason, again, _ = str(error).replace(path, given).partition(': fetch it again')
        if again:
            fetching.forget(given)
            reason += ': the download is removed, check the address'
        raise CheckpointError(reason) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'checkpoint {path!r} holds a {type(checkpoint).__name__}, not a dict of tensors')
    return checkpoint


def find_state_dict(
    checkpoint: Dict[str, Any], keys=('state_dict', 'model', 'model_state', 'ema')
) -> Dict[str, Tensor]:
    """The dict of tensors inside a checkpoint: the first of ``keys`` that is there, or the checkpoint itself.

    Raises:
        CheckpointError: If no tensor is found.
    """
    for key in keys:
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    state_dict = OrderedDict(
        (k.removeprefix('module.'), v) for k, v in checkpoint.items() if isinstance(k, str) and isinstance(v, Tensor)
    )
    if hasattr(checkpoint, '_metadata'):  # versions of the layers
        state_dict._metadata = checkpoint._metadata
    if not state_dict:
        raise CheckpointError(f'no weights found: expected tensors or one of the keys {", ".join(keys)}')
    return state_dict


__getattr__ = moved(
    __name__,
    load_pretrained='checkpoints.loading',
)
