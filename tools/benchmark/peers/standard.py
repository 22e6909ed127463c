"""What ships with Python: multiprocessing, and sqlite3."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Any

from benchmark.peers.base import Counter, Peer

__all__ = ["VALUE", "LockPeer", "ManagerPeer", "RLockPeer", "SqlitePeer", "ValuePeer"]

_FORK = multiprocessing.get_context("fork")
VALUE = "multiprocessing.Value"


class _Value(Counter):
    """``with v.get_lock(): v.value += 1``."""

    def __init__(self) -> None:
        self.shared = _FORK.Value("q", 0)
        self.lock = self.shared.get_lock()

    def increment(self, n: int) -> None:
        shared = self.shared
        for _ in repeat(None, n):
            with shared.get_lock():
                shared.value += 1

    def value(self) -> int:
        return int(self.shared.value)


class ValuePeer(Peer):
    """multiprocessing.Value("q") and its lock."""

    name = VALUE
    note = "for related processes only; a holder that is killed leaves it locked forever"

    @contextmanager
    def open(self, scratch: str) -> Iterator[Counter]:
        yield _Value()


class _Raw(Counter):
    """A lock, and a RawValue under it."""

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self._raw = _FORK.RawValue("q", 0)

    def increment(self, n: int) -> None:
        lock, raw = self.lock, self._raw
        assert lock is not None
        for _ in repeat(None, n):
            with lock:
                raw.value += 1

    def value(self) -> int:
        return int(self._raw.value)


class LockPeer(Peer):
    """multiprocessing.Lock."""

    name = "multiprocessing.Lock + RawValue"
    note = "as multiprocessing.Value; the value is not tied to the lock"

    @contextmanager
    def open(self, scratch: str) -> Iterator[Counter]:
        yield _Raw(_FORK.Lock())


class RLockPeer(Peer):
    """multiprocessing.RLock."""

    name = "multiprocessing.RLock + RawValue"
    contended = False
    note = "as multiprocessing.Lock + RawValue, and recursive"

    @contextmanager
    def open(self, scratch: str) -> Iterator[Counter]:
        yield _Raw(_FORK.RLock())


class _Managed(Counter):
    def __init__(self, manager: Any) -> None:
        self.lock = manager.Lock()
        self._shared = manager.Value("q", 0)

    def increment(self, n: int) -> None:
        lock, shared = self.lock, self._shared
        assert lock is not None
        for _ in repeat(None, n):
            with lock:
                shared.value += 1

    def value(self) -> int:
        return int(self._shared.value)


class ManagerPeer(Peer):
    """Proxies of multiprocessing.Manager."""

    name = "multiprocessing.Manager"
    note = "a server process holds lock and value; any picklable value; a holder that is killed leaves it locked"

    @contextmanager
    def open(self, scratch: str) -> Iterator[Counter]:
        with _FORK.Manager() as manager:
            yield _Managed(manager)


class _Table(Counter):
    """BEGIN IMMEDIATE, UPDATE, COMMIT."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.after_fork()
        self._database.execute("CREATE TABLE counter (n INTEGER NOT NULL)")
        self._database.execute("INSERT INTO counter VALUES (0)")

    def after_fork(self) -> None:
        self._database = sqlite3.connect(self._path, timeout=60, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")

    def increment(self, n: int) -> None:
        execute = self._database.execute
        for _ in repeat(None, n):
            execute("BEGIN IMMEDIATE")
            execute("UPDATE counter SET n = n + 1")
            execute("COMMIT")

    def value(self) -> int:
        return int(self._database.execute("SELECT n FROM counter").fetchone()[0])

    def before_fork(self) -> None:
        self._database.close()


class SqlitePeer(Peer):
    """sqlite3 with its file in shared memory."""

    name = "sqlite3 in /dev/shm"
    modules = ("sqlite3",)
    note = "a database; BEGIN IMMEDIATE, UPDATE, COMMIT in WAL mode"

    def version(self) -> str:
        return sqlite3.sqlite_version

    @contextmanager
    def open(self, scratch: str) -> Iterator[Counter]:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            table = _Table(os.path.join(folder, "counter.db"))
            try:
                yield table
            finally:
                table.before_fork()
