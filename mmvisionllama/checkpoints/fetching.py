"""Fetching checkpoints from the web into torch's hub folder, once and whole."""

import contextlib
import hashlib
import http.client
import os
import tempfile
from typing import Iterator
from urllib.parse import urlparse

import torch

from ..errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def is_address(path: str) -> bool:
    """Whether ``path`` is to be fetched."""
    return path.startswith(('http://', 'https://'))


def cached_path(url: str) -> str:
    """Where the file of an address lies: told apart by the whole address, not by the file's name."""
    name = os.path.basename(urlparse(url).path) or 'checkpoint'
    key = hashlib.sha256(url.encode()).hexdigest()[:16]
    return os.path.join(torch.hub.get_dir(), 'checkpoints', f'{key}-{name[-100:]}')


@contextlib.contextmanager
def _one_process(path: str) -> Iterator[None]:
    """The processes of a machine, or of several over one file system, wait here for each other."""
    with open(f'{path}.lock', 'w') as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks: each process fetches for itself
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetch(url: str) -> str:
    """Downloads a file unless it is there, and returns its path.

    Of several processes one downloads. The file gets its name when it is complete.

    Raises:
        CheckpointError: If it cannot be fetched.
    """
    path = cached_path(url)
    if os.path.isfile(path):
        return path
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with _one_process(path):
            if not os.path.isfile(path):
                with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as folder:
                    part = os.path.join(folder, 'part')
                    torch.hub.download_url_to_file(url, part)
                    os.replace(part, path)
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError is an OSError
        raise CheckpointError(f'{url} cannot be fetched ({error}): check the address and the network') from error
    return path


def forget(url: str) -> None:
    """Removes the file of an address that turned out to be damaged, so that the next try fetches it again."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(cached_path(url))
