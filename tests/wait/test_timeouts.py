"""What timeouts may be, and what `acquire` takes: as threading's and multiprocessing's locks."""

from __future__ import annotations

import decimal
import math
import multiprocessing
import threading
from collections.abc import Callable
from typing import Any

import pytest
from eventloops import BACKENDS, run
from processes import held_by_child

from wdkmutex_shm import CriticalSection, FastMutex, KMutex, LockTimeout, lock_all, lock_any, mp

_context = mp.get_context("fork")

ACQUIRE: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    *(((blocking,), {}) for blocking in (None, "x", (), "", 0, 0.0, 1.0, 2, -1, True, False)),
    *(((), {"timeout": timeout}) for timeout in (0, -1, -1.0, -2, -0.5, True, "1", b"1", [], 1e100)),
    *(((), {"timeout": timeout}) for timeout in (math.inf, -math.inf, math.nan, threading.TIMEOUT_MAX, 9223373036.0)),
    *(((False, timeout), {}) for timeout in (-1, -1.0, 0, 1, -2, "1")),
    ((True, 1, 2), {}),
    ((), {"x": 1}),
]


def outcome(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        return call(*args, **options)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize(("args", "options"), ACQUIRE)
def test_acquire_takes_what_rlock_takes(args: Any, options: Any) -> None:
    assert outcome(CriticalSection().acquire, *args, **options) == outcome(threading.RLock().acquire, *args, **options)


def test_acquire_takes_more_than_rlock() -> None:
    numpy = pytest.importorskip("numpy")
    for timeout in (None, decimal.Decimal(1), numpy.float32(1), numpy.float64(1), numpy.int64(1)):
        assert CriticalSection().acquire(timeout=timeout)
    assert CriticalSection().acquire(False, None)


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore"])
def test_locks_of_mp_take_what_those_of_multiprocessing_take(kind: str) -> None:
    theirs = multiprocessing.get_context("fork")
    for args, options in ACQUIRE:
        ours = outcome(getattr(_context, kind)().acquire, *args, **options)
        assert ours == outcome(getattr(theirs, kind)().acquire, *args, **options), (args, options)
    for timeout in (decimal.Decimal("0.001"), math.nan, -5):
        lock = getattr(_context, kind)()
        assert lock.acquire(True, timeout)
        assert kind == "RLock" or not lock.acquire(True, timeout)


WAITS: dict[str, Callable[[Any, Any], Any]] = {
    "lock": lambda mutex, timeout: mutex.lock(timeout),
    "fetch_add": lambda mutex, timeout: mutex.fetch_add(1, timeout),
    "lock_when": lambda mutex, timeout: mutex.lock_when(lambda _: True, timeout),
    "wait_for": lambda mutex, timeout: mutex.wait_for(lambda _: True, timeout),
    "changes": lambda mutex, timeout: next(mutex.changes(timeout)),
    "lock_all": lambda mutex, timeout: lock_all(mutex, timeout=timeout),
    "lock_any": lambda mutex, timeout: lock_any(mutex, timeout=timeout),
    "lock_async": lambda mutex, timeout: mutex.lock_async(timeout).begin,
}


@pytest.mark.filterwarnings("ignore:a lock_async")
@pytest.mark.parametrize("how", WAITS)
def test_timeouts_that_every_wait_takes(how: str) -> None:
    numpy = pytest.importorskip("numpy")
    for timeout in (None, 0, True, 1.5, math.inf, 1e100, decimal.Decimal(1), numpy.float32(1), numpy.int64(1)):
        WAITS[how](FastMutex(0), timeout)
    for refused in (-1, -0.001, math.nan, -math.inf):
        with pytest.raises(ValueError, match="timeout must be"):
            WAITS[how](FastMutex(0), refused)
    for refused in ("1", b"1", [1], 1j):
        with pytest.raises(TypeError):
            WAITS[how](FastMutex(0), refused)


@pytest.mark.parametrize("timeout", [decimal.Decimal("0.002"), 0.002])
def test_a_timeout_that_is_over(timeout: Any) -> None:
    mutex, taken = KMutex(0), KMutex(0)
    with held_by_child(taken):
        for wait in (
            lambda: mutex.wait_for(bool, timeout),
            lambda: mutex.lock_when(bool, timeout),
            lambda: taken.lock(timeout),
            lambda: lock_any(taken, timeout=timeout),
        ):
            with pytest.raises(LockTimeout):
                wait()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("timeout", [decimal.Decimal("0.002"), math.inf, 1e100])
def test_timeouts_of_tasks(backend: str, timeout: Any) -> None:
    mutex = KMutex(0)

    async def main() -> None:
        async with mutex.lock_async():
            pass
        if timeout > 1:
            mutex.fetch_add(1, 0)
            assert await mutex.wait_for_async(bool, timeout) == 1
            async with mutex.lock_when_async(bool, timeout):
                pass
            return
        for wait in (mutex.wait_for_async(bool, timeout), mutex.lock_when_async(bool, timeout)):
            with pytest.raises(LockTimeout):
                await wait

    run(backend, main)
