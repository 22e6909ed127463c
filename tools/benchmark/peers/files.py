"""File locks, their files in shared memory: filelock, fasteners, portalocker. The int is in a mapping."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from benchmark.peers.base import CellCounter, Counter, Peer

__all__ = ["FastenersPeer", "FilelockPeer", "PortalockerPeer"]


class _FilePeer(Peer):
    def make(self, path: str) -> AbstractContextManager[Any]:
        """A lock on that file."""
        raise NotImplementedError

    @contextmanager
    def open(self, scratch: str) -> Iterator[Counter]:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            path = os.path.join(folder, "counter.lock")
            # An open file is locked for all who inherited it: a forked child opens it anew.
            yield CellCounter(self.make(path), lambda: self.make(path))


class FilelockPeer(_FilePeer):
    """filelock.FileLock."""

    name = "filelock.FileLock + mmap"
    package = "filelock"
    modules = ("filelock",)
    asyncio = True
    note = "survives its holder's death; waits by looking every 50 ms; the value is not tied to it"

    def make(self, path: str) -> AbstractContextManager[Any]:
        from filelock import FileLock

        lock: AbstractContextManager[Any] = FileLock(path)
        return lock


class FastenersPeer(_FilePeer):
    """fasteners.InterProcessLock."""

    name = "fasteners.InterProcessLock + mmap"
    package = "fasteners"
    modules = ("fasteners",)
    note = "survives its holder's death; waits by looking every 10 to 100 ms; the value is not tied to it"

    def make(self, path: str) -> AbstractContextManager[Any]:
        from fasteners import InterProcessLock

        lock: AbstractContextManager[Any] = InterProcessLock(path)
        return lock


class PortalockerPeer(_FilePeer):
    """portalocker.Lock."""

    name = "portalocker.Lock + mmap"
    package = "portalocker"
    modules = ("portalocker",)
    asyncio = True
    contended = False
    note = "survives its holder's death; waits by looking every 250 ms, for 5 s; the value is not tied to it"

    def make(self, path: str) -> AbstractContextManager[Any]:
        from portalocker import Lock

        lock: AbstractContextManager[Any] = Lock(path)
        return lock
