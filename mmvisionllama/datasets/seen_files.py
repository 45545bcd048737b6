"""Files that a check found right, remembered across the workers and epochs of a training."""

import mmap
import os
from hashlib import blake2b
from typing import Optional

import numpy as np

WAYS = 8


class SeenFiles:
    """A set of files in memory that a process shares with the workers it forks, now and later.

    A file is known by its path, size and time of change, so one that changes is a new file; one on a server
    (``scheme://``) by its path. The set forgets before it grows, and it starts empty in a copy and in a spawned worker:
    a file may be looked at twice, and none is taken for seen that was not.

    Args:
        capacity: Entries that are kept, of 8 bytes each; memory that is not written costs nothing.
    """

    def __init__(self, capacity: int = 1 << 20) -> None:
        self.capacity = capacity
        # anonymous and shared: not a part of /dev/shm, which containers keep small
        self._table = np.frombuffer(mmap.mmap(-1, 8 * capacity), dtype=np.uint64).reshape(-1, WAYS)

    def __reduce__(self):
        return type(self), (self.capacity,)

    @staticmethod
    def key(*paths: Optional[str]) -> Optional[int]:
        """A number for files as they are now; None for one that is not there. Take it before looking at them."""
        parts = []
        for path in paths:
            try:
                stat = os.stat(path) if path is not None else None
            except OSError:
                if '://' not in str(path):
                    return None
                stat = None
            parts.append((str(path), stat and (stat.st_size, stat.st_mtime_ns)))
        return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), 'little') or 1

    def __contains__(self, key: Optional[int]) -> bool:
        return key is not None and bool((self._table[key % len(self._table)] == np.uint64(key)).any())

    def add(self, key: Optional[int]) -> None:
        """Remembers a key; None is nothing to remember."""
        if key is None:
            return
        row = self._table[key % len(self._table)]
        free = np.flatnonzero(row == 0)
        row[free[0] if len(free) else key // len(self._table) % WAYS] = key  # one aligned word: no lock is needed
