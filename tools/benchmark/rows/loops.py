"""A1 and A2: a lock as a task of an event loop takes it, when nobody else wants it. One process, one loop."""

from __future__ import annotations

import importlib
import importlib.util
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, closing
from itertools import repeat
from typing import TYPE_CHECKING, Any

from benchmark.model import Context, Entry, Row, Target
from benchmark.rows.common import in_unit, others, timed
from wdkmutex_shm import CriticalSection, FastMutex, KMutex

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ["ROWS"]

_OURS = "FastMutex.lock_async()"
_ASYNCIO = "asyncio.Lock"
_FILELOCK = "filelock.AsyncFileLock"


def _entering(make: Callable[[], AbstractAsyncContextManager[Any]]) -> Callable[[int], Awaitable[None]]:
    """A loop of ``async with make(): pass``."""

    async def run(n: int) -> None:
        for _ in repeat(None, n):
            async with make():
                pass

    return run


def _holding(lock: AbstractAsyncContextManager[Any]) -> Callable[[int], Awaitable[None]]:
    """A loop of ``async with lock: pass``."""

    async def run(n: int) -> None:
        for _ in repeat(None, n):
            async with lock:
                pass

    return run


def _incrementing(mutex: FastMutex[int]) -> Callable[[int], Awaitable[None]]:
    async def run(n: int) -> None:
        for _ in repeat(None, n):
            async with mutex.lock_async() as guard:
                guard.value += 1

    return run


def _in_loop(
    loop: AbstractEventLoop, runs: dict[str, Callable[[int], Awaitable[None]]]
) -> dict[str, Callable[[int], object]]:
    """The same, to be called from outside the loop: entering it costs some 20 µs a sample, for everyone."""

    def bind(run: Callable[[int], Awaitable[None]]) -> Callable[[int], object]:
        return lambda n: loop.run_until_complete(run(n))

    return {name: bind(run) for name, run in runs.items()}


def _asyncio(context: Context) -> Iterator[Entry]:
    import asyncio  # not before: other rows are to be measured without it

    fast, k, section = FastMutex(0), KMutex(0), CriticalSection()
    runs = {
        _OURS: _entering(fast.lock_async),
        _ASYNCIO: _holding(asyncio.Lock()),
        "KMutex.lock_async()": _entering(k.lock_async),
        "CriticalSection.lock_async()": _entering(section.lock_async),
        "FastMutex.lock_async(), value += 1": _incrementing(fast),
    }
    with closing(asyncio.new_event_loop()) as loop:
        found = timed(context, "async with", _in_loop(loop, runs))
    yield Entry(
        part="",
        title="async with lock: pass",
        unit="ns",
        ours=in_unit(found[_OURS], "ns"),
        ours_name=_OURS,
        peer=in_unit(found[_ASYNCIO], "ns"),
        peer_name=_ASYNCIO,
        target=Target("ratio", at_most=2.0),
        others=others(found, "ns", _OURS, _ASYNCIO),
        notes=["asyncio.Lock is for the tasks of one loop: it excludes neither other threads nor other processes"],
    )


def _filelock(context: Context) -> Iterator[Entry]:
    import asyncio

    mutex = FastMutex(0)
    runs = {_OURS: _entering(mutex.lock_async)}
    skipped = []
    with tempfile.TemporaryDirectory(dir=context.scratch) as folder, closing(asyncio.new_event_loop()) as loop:
        if importlib.util.find_spec("filelock") is None:
            skipped.append(f"{_FILELOCK}: filelock is not installed")
        else:
            lock = importlib.import_module("filelock").AsyncFileLock(os.path.join(folder, "lock"))
            runs[_FILELOCK] = _holding(lock)
        found = timed(context, "async with", _in_loop(loop, runs))
        loop.run_until_complete(loop.shutdown_default_executor())
    yield Entry(
        part="",
        title="async with lock: pass, between processes",
        unit="us",
        ours=in_unit(found[_OURS], "us"),
        ours_name=_OURS,
        peer=in_unit(found[_FILELOCK], "us") if _FILELOCK in found else None,
        peer_name=_FILELOCK if _FILELOCK in found else None,
        target=Target("ratio", at_most=0.02) if _FILELOCK in found else None,
        notes=[f"{_FILELOCK} does its system calls in a worker thread, its default"],
        skipped=skipped,
    )


ROWS = [
    Row("A1", "in an event loop, against asyncio.Lock", _asyncio),
    Row("A2", "in an event loop, against a file lock", _filelock),
]
