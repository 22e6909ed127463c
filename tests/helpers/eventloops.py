"""The event loops that a test of ``lock_async()`` runs under, behind AnyIO's face."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from processes import STARVING_AT, read_shm, slot_offset

from wdkmutex_shm.core import _core

anyio = pytest.importorskip("anyio")

BACKENDS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed"),
    )
    for name in ("asyncio", "uvloop", "trio")
]


def run(backend: str, work: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Run ``work`` in a new loop of that kind to its end and return what it returned; fail after half a minute."""

    async def limited() -> Any:
        with anyio.fail_after(30):
            return await work(*args)

    options = {} if backend == "trio" else {"use_uvloop": backend == "uvloop"}
    return anyio.run(limited, backend="trio" if backend == "trio" else "asyncio", backend_options=options)


async def until(happened: Callable[[], Any]) -> None:
    """Let the other tasks run until something is so."""
    while not happened():
        await anyio.sleep(0.001)


def in_line(mutex: Any) -> int:
    """How many tasks of this process wait for a mutex."""
    queue = _core.waiting.get(mutex)
    return 0 if queue is None else len(queue.waiters)


def starving(mutex: Any) -> int:
    """How many, in all processes, count among the waiters that are served next."""
    (count,) = struct.unpack("=I", read_shm(mutex.segment, slot_offset(mutex, STARVING_AT), 4))
    return int(count)


def nothing_left(mutex: Any) -> bool:
    """Whether nobody holds or waits for a mutex that only tasks have used."""
    return mutex.owner is None and in_line(mutex) == 0 and starving(mutex) == 0
