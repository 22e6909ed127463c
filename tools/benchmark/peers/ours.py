"""This project, in the ways that its users have, and the limit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Any

from benchmark.peers.base import Counter, Peer
from wdkmutex_shm import FastMutex, KMutex

from ..limit import Limit

__all__ = ["LIMIT", "OURS", "FastMutexPeer", "FetchAddPeer", "KMutexPeer", "LimitPeer"]

OURS = "FastMutex"
LIMIT = "C limit"


class _Guarded(Counter):
    """``with m.lock() as g: g.value += 1``."""

    def __init__(self, mutex: Any) -> None:
        self.mutex = mutex
        self.lock = _Locking(mutex)

    def increment(self, n: int) -> None:
        mutex = self.mutex
        for _ in repeat(None, n):
            with mutex.lock() as guard:
                guard.value += 1

    def value(self) -> int:
        return int(self.mutex.peek())


class _Locking:
    """``with`` on the mutex itself, for rows that only lock."""

    def __init__(self, mutex: Any) -> None:
        self._mutex = mutex

    def __enter__(self) -> None:
        self._guard = self._mutex.lock()
        self._guard.__enter__()

    def __exit__(self, *error: Any) -> None:
        guard, self._guard = self._guard, None
        guard.__exit__(*error)


class FastMutexPeer(Peer):
    """FastMutex[int]."""

    name = OURS
    package = "wdkmutex-shm"
    note = "owns its value; survives its holder's death at any instruction; has a name in the Grt"

    @contextmanager
    def open(self, scratch: str) -> Iterator[Counter]:
        yield _Guarded(FastMutex(0))


class KMutexPeer(Peer):
    """KMutex[int]."""

    name = "KMutex"
    package = "wdkmutex-shm"
    note = "as FastMutex, and recursive"

    @contextmanager
    def open(self, scratch: str) -> Iterator[Counter]:
        yield _Guarded(KMutex(0))


class _Adding(Counter):
    def __init__(self) -> None:
        self._mutex = FastMutex(0)

    def increment(self, n: int) -> None:
        fetch_add = self._mutex.fetch_add
        for _ in repeat(None, n):
            fetch_add(1)

    def value(self) -> int:
        return self._mutex.peek()


class FetchAddPeer(Peer):
    """FastMutex[int].fetch_add(1)."""

    name = "FastMutex.fetch_add"
    package = "wdkmutex-shm"
    note = "lock, add and commit in one call"

    @contextmanager
    def open(self, scratch: str) -> Iterator[Counter]:
        yield _Adding()


class _Limited(Counter):
    def __init__(self) -> None:
        self.lock = self.limit = Limit()

    def increment(self, n: int) -> None:
        self.limit.increment(n)

    def value(self) -> int:
        return self.limit.value


class LimitPeer(Peer):
    """A C loop over the same kind of mutex and an int."""

    name = LIMIT
    note = "a loop in C over a robust pthread mutex and an int: what no lock of this design can beat from Python"

    @contextmanager
    def open(self, scratch: str) -> Iterator[Counter]:
        yield _Limited()
