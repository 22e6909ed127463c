"""What the processes of the rows with a daemon do: module-level functions, for :class:`benchmark.instance.Client`.

The names of an instance are ``bench:0``, ``bench:1`` and so on.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Iterable, Sequence

from wdkmutex_shm import FastMutex, Grt
from wdkmutex_shm.base.names import instance_prefix
from wdkmutex_shm.memory.shm import FOLDER, listing
from wdkmutex_shm.pool.pool import Pool

__all__ = [
    "REPLY",
    "REQUEST",
    "daemon_pid",
    "exchange",
    "get",
    "get_many",
    "memory",
    "name",
    "register",
    "register_many",
    "restart",
    "shared_bytes",
    "snapshot",
]

REQUEST, REPLY = 48, 96
"""Bytes of a message to the echo server and of its answer: about those of a ``get``."""

_BATCH = 100_000
_DEATH = 30.0

_connections: dict[str, socket.socket] = {}


def name(number: int) -> str:
    """The name of a mutex of the crowd."""
    return f"bench:{number}"


def register(begin: int, end: int) -> float:
    """Register these, one by one; return how many a second."""
    register_one = Grt.register_fast_mutex
    names = [name(number) for number in range(begin, end)]
    began = time.perf_counter()
    for each in names:
        register_one(each, 0)
    return len(names) / (time.perf_counter() - began)


def register_many(begin: int, end: int) -> float:
    """Register these, a hundred thousand a call; return how many a second."""
    took = 0.0
    for start in range(begin, end, _BATCH):
        values = {name(number): 0 for number in range(start, min(start + _BATCH, end))}
        began = time.perf_counter()
        Grt.register_many(FastMutex, values)
        took += time.perf_counter() - began
    return (end - begin) / took


def get_many(begin: int, end: int) -> float:
    """Get these in one call; return how many a second."""
    names = [name(number) for number in range(begin, end)]
    began = time.perf_counter()
    found = Grt.get_many(FastMutex, names, int)
    took = time.perf_counter() - began
    assert len(found) == len(names)
    return len(names) / took


def snapshot(count: int) -> float:
    """Look at all of them; return how many milliseconds it took."""
    began = time.perf_counter()
    found = Grt.snapshot()
    took = time.perf_counter() - began
    assert len(found) == count
    return 1e3 * took


def get(numbers: Iterable[int]) -> list[float]:
    """Get these one by one; return the microseconds of each."""
    return _each(Grt.get_fast_mutex, [name(number) for number in numbers])


def _each(call: object, arguments: Sequence[object]) -> list[float]:
    assert callable(call)
    now, took = time.perf_counter_ns, []
    for argument in arguments:
        began = now()
        call(argument)
        took.append((now() - began) / 1e3)
    return took


def exchange(path: str, times: int) -> list[float]:
    """Ask the echo server so often; return the microseconds of each answer."""
    connection = _connections.get(path)
    if connection is None:
        connection = _connections[path] = socket.socket(socket.AF_UNIX)
        connection.connect(path)
    send, receive = connection.sendall, connection.recv

    def ask(request: bytes) -> None:
        send(request)
        left = REPLY
        while left:
            left -= len(receive(left))

    return _each(ask, [bytes(REQUEST)] * times)


def daemon_pid(instance: str) -> int:
    """The process that serves an instance.

    Raises:
        RuntimeError: there is no such instance.
    """
    server = Pool.server_of(instance_prefix(instance))
    if server is None:
        raise RuntimeError(f"no pool of instance {instance}")
    return server[0]


def restart(instance: str, number: int) -> float:
    """Kill the daemon and get a mutex, for which the daemon is started again; return the seconds until it is had."""
    pid = daemon_pid(instance)
    descriptor = os.pidfd_open(pid)
    try:
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        if not select.select([descriptor], [], [], _DEATH)[0]:
            raise RuntimeError(f"daemon {pid} does not die")
    finally:
        os.close(descriptor)
    Grt.get_fast_mutex(name(number), int)
    return time.monotonic() - began


def memory(pid: int) -> dict[str, int]:
    """Resident bytes of a process: VmRSS, and of it RssAnon and RssShmem."""
    found = {}
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key in ("VmRSS", "RssAnon", "RssShmem"):
                found[key] = int(value.split()[0]) * 1024
    return found


def shared_bytes(instance: str) -> int:
    """Bytes of shared memory that the pool of an instance takes."""
    return sum(os.stat(FOLDER + each).st_blocks * 512 for each in listing(instance_prefix(instance) + ".p"))
