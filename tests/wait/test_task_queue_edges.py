"""lock_async() at the edges: levels, guards that outlive their task or loop, threads that hold already, misuse."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from eventloops import BACKENDS, anyio, in_line, nothing_left, run, until
from kinds import KINDS, make
from processes import in_thread

from wdkmutex_shm import (
    AlreadyOwned,
    CriticalSection,
    FastMutex,
    Irql,
    IrqlTooHigh,
    KMutex,
    MutexDestroyed,
    NotOwned,
    current_irql,
    raise_irql,
)

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


def test_the_level_of_the_thread(backend: str) -> None:
    fast, k, section = FastMutex(0), KMutex(0), CriticalSection()

    async def main() -> None:
        assert current_irql() is Irql.DISPATCH
        for refused in (fast.lock, k.lock, section.enter):
            with pytest.raises(IrqlTooHigh, match="lock_async"):
                refused()
        guard = await fast.lock_async()
        assert in_thread(current_irql) is Irql.PASSIVE
        guard.drop_safe()
        with raise_irql(15):
            for mutex in (fast, k, section):
                async with mutex.lock_async():
                    assert current_irql() == 15
                (await mutex.lock_async()).drop_safe()
        return await fast.lock_async()

    guard = run(backend, main)
    assert current_irql() is Irql.PASSIVE, "a FastMutex held by a task does not keep the thread at APC"
    del guard
    gc.collect()
    assert nothing_left(fast)
    with fast.lock():
        assert current_irql() is Irql.APC
    assert current_irql() is Irql.PASSIVE


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_that_outlives_the_loop(backend: str, kind: str) -> None:
    mutex = make(kind)

    async def main() -> Any:
        return await mutex.lock_async()

    guard = run(backend, main)
    assert not guard.released
    with pytest.raises(NotOwned, match="whose task has ended"):
        guard.drop_safe()
    for call in (mutex.enter,) if kind == "section" else (mutex.lock, mutex.fetch_add):
        with pytest.raises(AlreadyOwned, match="another task"):
            call()
    assert not (mutex.try_enter() if kind == "section" else mutex.try_lock())
    del guard
    gc.collect()  # Trio's tasks are cycles
    assert nothing_left(mutex)


@pytest.mark.parametrize("kind", KINDS)
def test_a_guard_that_is_dropped_releases(backend: str, kind: str) -> None:
    mutex = make(kind)

    async def careless() -> None:
        guard = await mutex.lock_async()
        if kind != "section":
            guard.value = 5

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(careless)
        with anyio.fail_after(5):
            async with mutex.lock_async() as guard:
                assert not guard.abandoned
        box = [await mutex.lock_async()]
        in_thread(box.clear)  # another thread cannot release it: it is left to this one, which does so at its next lock
        async with mutex.lock_async():
            pass

    run(backend, main)
    assert nothing_left(mutex)
    assert kind == "section" or mutex.peek() == 5


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_thread_locked_before_the_loop(backend: str, kind: str) -> None:
    mutex = make(kind)

    async def main() -> None:
        with pytest.raises(AlreadyOwned):
            await mutex.lock_async(timeout=10)

    guard = mutex.enter() if kind == "section" else mutex.lock()
    run(backend, main)
    if kind == "section":
        mutex.leave()
    del guard
    assert nothing_left(mutex)


@pytest.mark.parametrize("kind", ["k", "section"])
def test_what_the_thread_locked_without_a_task_inside_the_loop(backend: str, kind: str) -> None:
    mutex = make(kind)
    got: list[bool] = []

    async def other() -> None:
        async with mutex.lock_async():
            got.append(True)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            guard = mutex.try_enter() if kind == "section" else mutex.try_lock()
            group.start_soon(other)
            await until(lambda: in_line(mutex) == 1)
            assert not got
            if kind == "section":
                mutex.leave()
            else:
                guard.drop_safe()

    run(backend, main)
    assert got
    assert nothing_left(mutex)


def test_a_request_is_used_once(backend: str) -> None:
    mutex = KMutex(0)

    async def main() -> None:
        request = mutex.lock_async()
        assert "not awaited yet" in repr(request)
        async with request as guard:
            with pytest.raises(RuntimeError, match="call lock_async"):
                await request
        assert guard.released
        with pytest.warns(RuntimeWarning, match="never awaited"):
            mutex.lock_async()
        for wrong in (-1, float("nan")):
            with pytest.raises(ValueError):
                mutex.lock_async(timeout=wrong)
        # Python 3.10 calls it an AttributeError.
        with pytest.raises((TypeError, AttributeError)), mutex.lock_async():  # type: ignore[attr-defined]
            pass

    with pytest.warns(RuntimeWarning, match="never awaited"):
        run(backend, main)
    assert nothing_left(mutex)


def test_without_a_task(backend: str) -> None:
    mutex = FastMutex(0)
    request = mutex.lock_async()
    with pytest.raises(RuntimeError, match="none runs"):
        request.__await__()

    async def main(request: Any) -> None:
        async with request as guard:  # made where no task ran: it is the task's that uses it
            guard.value += 1

    run(backend, main, mutex.lock_async())
    assert mutex.peek() == 1
    with pytest.raises(TypeError):
        type(request)()


@pytest.mark.parametrize("kind", KINDS)
def test_a_destroyed_mutex(backend: str, kind: str) -> None:
    mutex = make(kind)
    assert mutex._vacate()

    async def main() -> None:
        with pytest.raises(MutexDestroyed):
            await mutex.lock_async()
        with pytest.raises(MutexDestroyed):
            async with mutex.lock_async(timeout=0):
                pass

    run(backend, main)


def test_asyncio_hands_the_guard_to_who_asked(backend: str) -> None:
    if backend == "trio":
        pytest.skip("about asyncio")
    mutex = KMutex(0)

    async def main() -> None:
        with await asyncio.wait_for(mutex.lock_async(), 5) as guard:  # in a task of its own, before Python 3.12
            guard.value = 1
        (guard,) = await asyncio.gather(mutex.lock_async())
        guard.drop_safe()
        async with mutex.lock_async():
            other = asyncio.create_task(self_locked())
            await asyncio.sleep(0.01)
            assert not other.done()
        assert await other == 1

    async def self_locked() -> int:
        async with mutex.lock_async() as guard:
            return int(guard.value)

    run(backend, main)
    assert nothing_left(mutex)
