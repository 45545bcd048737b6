"""Writes files so that a kill, a power cut or a full disk leaves either the old one or the whole new one."""

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Union

from mmengine.fileio import LocalBackend, register_backend

from ..errors import CheckpointError

#: what is not whole yet
PART = '.part'
#: the ordinary checkpoint in a folder of parts
STATE = 'state.pth'
#: the storage backend below, in mmengine's ``backend_args``
ATOMIC = 'mmvisionllama.atomic'
#: another, for processes that only take part
NOWHERE = 'mmvisionllama.nowhere'


def sync_folder(folder: Path) -> None:
    """Makes a rename last; some systems cannot open or sync a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_atomically(data: bytes, path: Union[str, Path]) -> None:
    """Writes aside, forces it to the disk, compares and only then renames.

    Raises:
        CheckpointError: If that fails, with what was there before in place.
    """
    path = Path(path)
    part = path.with_name(path.name + PART)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with open(part, 'rb') as file:
            view, size = memoryview(data), 1 << 24
            if any(file.read(size) != view[i : i + size] for i in range(0, max(len(data), 1), size)) or file.read(1):
                raise OSError('what was read back is not what was written')
        if (path / STATE).is_file():
            shutil.rmtree(path)  # an earlier training's, in parts: a file cannot take a folder's name
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise CheckpointError(
            f'{str(path)!r} could not be written ({error.strerror or error}): the files before it are intact; make '
            f'room or repair the disk and run the same command with --resume'
        ) from error
    sync_folder(path.parent)


def safetensors_metadata(dataset_meta: Optional[Dict[str, Any]]) -> Dict[str, str]:
    """What a safetensors file says of its weights: their format, and classes and palette as JSON."""
    classes = {key: dataset_meta[key] for key in ('classes', 'palette') if (dataset_meta or {}).get(key)}
    return dict(format='pt', dataset_meta=json.dumps(classes))


def remove_checkpoint(path: Union[str, Path]) -> None:
    """Removes a file, or a folder of parts, if it is there and can be removed."""
    with contextlib.suppress(OSError):
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def remove_parts(folder: Union[str, Path]) -> None:
    """Removes what killed processes left half-written: checkpoints and the file that names the last of them."""
    for pattern in (f'*.pth{PART}', f'last_checkpoint{PART}'):
        for path in Path(folder).glob(pattern):
            remove_checkpoint(path)


@register_backend(ATOMIC, force=True)
class AtomicBackend(LocalBackend):
    """The local disk, written atomically; within :meth:`removing_later` nothing goes before the new file is there."""

    def __init__(self) -> None:
        self._outdated: Optional[List[str]] = None

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Writes bytes, see :func:`write_atomically`."""
        write_atomically(obj, filepath)

    def remove(self, filepath: Union[str, Path]) -> None:
        """Removes a file, now or at the end of :meth:`removing_later`."""
        if self._outdated is None:
            super().remove(filepath)
        else:
            self._outdated.append(str(filepath))

    def rmtree(self, dir_path: Union[str, Path]) -> None:
        """Removes a folder, now or at the end of :meth:`removing_later`."""
        if self._outdated is None:
            super().rmtree(dir_path)
        else:
            self._outdated.append(str(dir_path))

    @contextlib.contextmanager
    def removing_later(self) -> Iterator[None]:
        """Puts removals off to the end of the block; after an error nothing is removed."""
        self._outdated = []
        try:
            yield
            outdated = self._outdated
        finally:
            self._outdated = None
        for path in outdated:
            remove_checkpoint(path)


@register_backend(NOWHERE, force=True)
class NowhereBackend(LocalBackend):
    """Writes nothing."""

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Drops what it gets."""
