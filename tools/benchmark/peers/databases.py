"""Stores with locks or transactions: lmdb, Redis."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Any

from benchmark.peers.base import Counter, Peer

__all__ = ["LmdbPeer", "RedisPeer"]

_START = 10.0


class _Transactions(Counter):
    """A write transaction that reads the counter and puts it back, one higher."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.after_fork()
        with self._environment.begin(write=True) as transaction:
            transaction.put(b"n", (0).to_bytes(8, "little"))

    def after_fork(self) -> None:
        import lmdb

        self._environment = lmdb.open(self._path)

    def increment(self, n: int) -> None:
        begin = self._environment.begin
        for _ in repeat(None, n):
            with begin(write=True) as transaction:
                number = int.from_bytes(transaction.get(b"n"), "little") + 1
                transaction.put(b"n", number.to_bytes(8, "little"))

    def value(self) -> int:
        with self._environment.begin() as transaction:
            return int.from_bytes(transaction.get(b"n"), "little")

    def before_fork(self) -> None:
        self._environment.close()


class LmdbPeer(Peer):
    """lmdb with its file in shared memory."""

    name = "lmdb in /dev/shm"
    package = "lmdb"
    modules = ("lmdb",)
    note = "a database; a write transaction that gets and puts; its writer's lock is a robust mutex"

    @contextmanager
    def open(self, scratch: str) -> Iterator[Counter]:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            transactions = _Transactions(folder)
            try:
                yield transactions
            finally:
                transactions.before_fork()


class _Keys(Counter):
    """``with r.lock(...): r.incr(...)``."""

    def __init__(self, settings: dict[str, Any], prefix: str) -> None:
        self._settings = settings
        self._lock_key, self._key = f"{prefix}:lock", f"{prefix}:n"
        self.after_fork()
        self._redis.set(self._key, 0)

    def after_fork(self) -> None:
        import redis

        self._redis = redis.Redis(**self._settings)

    def increment(self, n: int) -> None:
        client, lock, key = self._redis, self._lock_key, self._key
        for _ in repeat(None, n):
            with client.lock(lock, timeout=60):
                client.incr(key)

    def value(self) -> int:
        return int(self._redis.get(self._key))

    def close(self) -> None:
        self._redis.delete(self._key, self._lock_key)
        self._redis.close()


class RedisPeer(Peer):
    """redis-py's Lock, and INCR, on a server of its own over a Unix socket, or on the one at localhost:6379."""

    name = "Redis: Lock + INCR"
    package = "redis"
    modules = ("redis",)
    asyncio = True
    note = "a server, also for other machines; the lock is free again when its time is up; waits by asking every 100 ms"

    def missing(self) -> str | None:
        reason = super().missing()
        if reason is None and shutil.which("redis-server") is None and not self._answers({"host": "localhost"}):
            reason = f"{self.name}: no redis-server on PATH, and none answers at localhost:6379"
        return reason

    @staticmethod
    def _answers(settings: dict[str, Any]) -> bool:
        import redis

        with contextlib.suppress(redis.RedisError, OSError), redis.Redis(**settings, socket_timeout=1) as client:
            return bool(client.ping())
        return False

    @contextmanager
    def open(self, scratch: str) -> Iterator[Counter]:
        with self._server() as settings:
            keys = _Keys(settings, f"wdkmbench:{os.getpid()}")
            try:
                yield keys
            finally:
                keys.close()

    @contextmanager
    def _server(self) -> Iterator[dict[str, Any]]:
        """A server for this run alone; what to connect to it with."""
        command = shutil.which("redis-server")
        if command is None:
            yield {"host": "localhost"}
            return
        with tempfile.TemporaryDirectory(prefix="wdkmbench") as folder:
            path = os.path.join(folder, "redis.sock")
            words = [command, "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no", "--dir", folder]
            server = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            try:
                deadline = time.monotonic() + _START
                while not self._answers({"unix_socket_path": path}):
                    if server.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(f"{command} does not come up")
                    time.sleep(0.01)
                yield {"unix_socket_path": path}
            finally:
                server.terminate()
                server.wait()
