"""Libraries with primitives in shared memory: posix_ipc, fastipc, UltraDict."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, repeat
from typing import Any

from benchmark.peers.base import CellCounter, Counter, Peer

__all__ = ["FastipcPeer", "PosixIpcPeer", "UltraDictPeer"]

_numbers = count()


def _name() -> str:
    """A name that nobody else uses."""
    return f"wdkmbench-{os.getpid()}-{next(_numbers)}"


class PosixIpcPeer(Peer):
    """posix_ipc.Semaphore and an int in a mapping."""

    name = "posix_ipc.Semaphore + mmap"
    package = "posix_ipc"
    modules = ("posix_ipc",)
    note = "named; a holder that is killed leaves it locked forever; the value is not tied to it"

    @contextmanager
    def open(self, scratch: str) -> Iterator[Counter]:
        import posix_ipc

        semaphore = posix_ipc.Semaphore("/" + _name(), posix_ipc.O_CREX, initial_value=1)
        semaphore.unlink()  # it lives on in this process and those that it forks
        try:
            yield CellCounter(semaphore)
        finally:
            semaphore.close()


class FastipcPeer(Peer):
    """fastipc.NamedMutex and an int in a mapping."""

    name = "fastipc.NamedMutex + mmap"
    package = "fastipc"
    modules = ("fastipc",)
    note = "named; a futex with atomics; a holder that is killed leaves it locked until someone forces it open"

    @contextmanager
    def open(self, scratch: str) -> Iterator[Counter]:
        os.environ["FASTIPC_PID_DIR"] = os.path.join(scratch, "fastipc")
        from fastipc import NamedMutex

        mutex = NamedMutex(_name())
        try:
            yield CellCounter(mutex)
        finally:
            mutex._shm.close()  # it has no other way to remove its memory before the process ends


class _Dict(Counter):
    """``with d.lock: d["n"] += 1``."""

    def __init__(self, shared: Any) -> None:
        self._shared = shared
        self.lock = shared.lock

    def increment(self, n: int) -> None:
        shared = self._shared
        for _ in repeat(None, n):
            with shared.lock:
                shared["n"] += 1

    def value(self) -> int:
        return int(self._shared["n"])


class UltraDictPeer(Peer):
    """UltraDict with the lock that unrelated processes can share."""

    name = "UltraDict(shared_lock=True)"
    package = "UltraDict"
    modules = ("UltraDict", "atomics")
    contended = False
    note = "a dict of pickles; the lock spins; a holder that is killed leaves it locked until someone steals it"

    @contextmanager
    def open(self, scratch: str) -> Iterator[Counter]:
        from UltraDict import UltraDict

        shared = UltraDict({"n": 0}, shared_lock=True)
        try:
            yield _Dict(shared)
        finally:
            shared.close()
            shared.unlink()
