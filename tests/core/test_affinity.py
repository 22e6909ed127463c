"""Whatever runs as a task owns as a task, in every call that can be made in an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from eventloops import BACKENDS, nothing_left, run
from processes import in_child, in_thread

from wdkmutex_shm import (
    AlreadyOwned,
    CriticalSection,
    KMutex,
    LockTimeout,
    MutexBusy,
    NotOwned,
    lock_all,
    lock_any,
    mp,
    raise_irql,
    signal_handler,
)

_context = mp.get_context("fork")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _guard_of(got: Any) -> Any:
    if got is None:
        raise LockTimeout("not had")
    return got


# How a KMutex is locked in a task without waiting: (mutex) -> a guard to leave. LockTimeout where it is not had.
LOCKING: dict[str, Callable[[Any], Any]] = {
    "try_lock": lambda mutex: _guard_of(mutex.try_lock()),
    "lock": lambda mutex: mutex.lock(timeout=0),
    "lock_when": lambda mutex: mutex.lock_when(lambda _: True, timeout=0),
    "lock_all": lambda mutex: next(iter(lock_all(mutex, timeout=0))),
    "lock_any": lambda mutex: lock_any(mutex, timeout=0)[1],
    "at dispatch": lambda mutex: _at_dispatch(mutex.try_lock),
}


def _at_dispatch(call: Callable[[], Any]) -> Any:
    with raise_irql(2):
        return _guard_of(call())


def _acquire(lock: Any, *arguments: Any) -> Any:
    if not lock.acquire(*arguments):
        raise LockTimeout("not had")
    return contextlib.closing(_Held(lock))


class _Held:
    def __init__(self, lock: Any) -> None:
        self.close = lock.release


# How something without a T is locked: (what makes it, how).
ENTERING: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "acquire(False)": (CriticalSection, lambda section: _acquire(section, False)),
    "acquire(True, 0)": (CriticalSection, lambda section: _acquire(section, True, 0)),
    "lock_all": (CriticalSection, lambda section: next(iter(lock_all(section, timeout=0)))),
    "lock_any": (CriticalSection, lambda section: lock_any(section, timeout=0)[1]),
    "RLock.acquire(False)": (_context.RLock, lambda lock: _acquire(lock, False)),
    "RLock.acquire(True, 0)": (_context.RLock, lambda lock: _acquire(lock, True, 0)),
    "RLock.acquire(True, -1)": (_context.RLock, lambda lock: _acquire(lock, True, -1)),
    "Lock.acquire(False)": (_context.Lock, lambda lock: _acquire(lock, False)),
    "Lock.acquire(True, 0)": (_context.Lock, lambda lock: _acquire(lock, True, 0)),
}


async def _until_had(lock: Callable[[], Any]) -> Any:
    with anyio.fail_after(30):
        while True:
            try:
                return lock()
            except LockTimeout:
                await anyio.sleep(0)


@pytest.mark.parametrize("how", LOCKING)
def test_tasks_that_add_one_around_an_await(backend: str, how: str) -> None:
    mutex = KMutex(0)

    async def work() -> None:
        with await _until_had(lambda: LOCKING[how](mutex)) as guard:
            value = guard.value
            await anyio.sleep(0)
            guard.value = value + 1

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(work)

    run(backend, main)
    assert mutex.peek() == 5
    assert nothing_left(mutex)


@pytest.mark.parametrize("how", ENTERING)
def test_no_two_tasks_are_inside_at_once(backend: str, how: str) -> None:
    make, enter = ENTERING[how]
    lock = make()
    inside: list[int] = []

    async def work(number: int) -> None:
        with await _until_had(lambda: enter(lock)):
            inside.append(number)
            await anyio.sleep(0)
            assert inside == [number]
            inside.pop()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(work, number)

    run(backend, main)
    assert lock.acquire(False)
    lock.release()


def test_what_another_task_meets_in_every_call(backend: str) -> None:
    mutex, section, rlock = KMutex(0), CriticalSection(), _context.RLock()

    async def other(guard: Any) -> None:
        assert mutex.try_lock() is None
        for call in (
            lambda: mutex.lock(0),
            lambda: mutex.fetch_add(1, 0),
            lambda: mutex.replace(1, 0),
            lambda: mutex.lock_when(lambda _: True, 0),
            lambda: lock_all(mutex, KMutex(0), timeout=0),
            lambda: lock_all(section, timeout=0),
            lambda: lock_any(mutex, section, timeout=0),
            lambda: section.enter(0),
        ):
            with pytest.raises(LockTimeout):
                call()
        assert not section.try_enter()
        assert not rlock.acquire(False)
        assert mutex.wait_for(lambda value: value == 0, 0) == 0
        with pytest.raises(LockTimeout):
            mutex.wait_for(bool, 0)
        for consume in (mutex.to_owned, mutex.to_owned_box):
            with pytest.raises(MutexBusy):
                consume()
        for use in (
            lambda: guard.value,
            guard.commit,
            guard.drop_safe,
            guard.__enter__,
            section.leave,
            section.release,
        ):
            with pytest.raises(NotOwned):
                use()
        with pytest.raises(AssertionError):
            rlock.release()
        assert not section._is_owned()
        assert section._recursion_count() == 0

    async def main() -> None:
        guard = mutex.try_lock()
        assert guard is not None
        assert section.try_enter()
        assert rlock.acquire(False)
        async with anyio.create_task_group() as group:
            group.start_soon(other, guard)
        guard.drop_safe()
        section.leave()
        rlock.release()

    run(backend, main)
    assert nothing_left(mutex)
    assert nothing_left(section)


def test_what_the_task_itself_gets(backend: str) -> None:
    mutex, section = KMutex(0), CriticalSection()

    async def main() -> None:
        with mutex.lock(0) as guard:
            guard.value = 1
            assert mutex.fetch_add(1, 0) == 1
            assert mutex.replace(5, 0) == 2
            with mutex.try_lock() as inner:  # type: ignore[union-attr]
                assert inner.is_inner
                inner.value += 1
            async with mutex.lock_async() as inner:
                assert inner.is_inner
            await anyio.sleep(0)
            for refused in (lambda: mutex.lock_when(bool, 0), mutex.to_owned):
                with pytest.raises(AlreadyOwned):
                    refused()
            assert mutex.peek() == 0
        assert mutex.peek() == 6
        for _ in range(3):
            assert section.acquire(False)
        async with section.lock_async():
            assert section._is_owned()
            assert section._recursion_count() == 3
            assert not section.abandoned
            assert section.abandoned_by is None
            depth = section._release_save()
            assert depth == 3
        with pytest.raises(NotOwned):
            section.leave()
        assert nothing_left(section)
        one, other = KMutex(0), KMutex(0)
        with lock_all(one, other, section, timeout=0) as (of_one, of_other, _):
            of_one.value, of_other.value = 1, 2
        assert (one.peek(), other.peek()) == (1, 2)

    run(backend, main)
    assert mutex.to_owned() == 6
    assert nothing_left(section)


def test_callbacks_of_a_loop_own_as_one_and_share_nothing() -> None:
    mutex, section = KMutex(0), CriticalSection()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        failed: list[BaseException] = []

        async def call(work: Callable[[], None]) -> None:
            done = asyncio.Event()

            def callback() -> None:
                try:
                    work()
                except BaseException as error:
                    failed.append(error)
                done.set()

            loop.call_soon(callback)
            await done.wait()
            assert not failed, failed

        kept: list[Any] = []

        def first() -> None:
            kept.append(mutex.try_lock())
            assert kept[0] is not None
            assert section.acquire(False)
            kept[0].value = 1
            assert mutex.try_lock() is None  # a later callback could not be told from this one
            assert not section.acquire(False)

        def second() -> None:
            assert mutex.try_lock() is None
            assert not section.try_enter()
            with pytest.raises(LockTimeout):
                mutex.fetch_add(1, 0)
            kept[0].value += 1

        def third() -> None:
            kept.pop().drop_safe()
            section.release()

        await call(first)
        assert mutex.try_lock() is None
        assert not section.try_enter()
        for use in (kept[0].drop_safe, section.release):
            with pytest.raises(NotOwned):
                use()
        await call(second)
        await call(third)
        with mutex.try_lock() as guard:  # type: ignore[union-attr]
            assert guard.value == 2

    asyncio.run(main())
    assert nothing_left(mutex)
    assert nothing_left(section)


def test_what_the_thread_locked_before_the_loop_is_no_tasks() -> None:
    mutex, section = KMutex(0), CriticalSection()

    async def main() -> None:
        for refused in (mutex.try_lock, lambda: mutex.fetch_add(1, 0), section.try_enter):
            with pytest.raises(AlreadyOwned, match="before it ran this event loop"):
                refused()
        assert guard.value == 0  # who is given its guard may use it

    with mutex.lock() as guard, section:
        asyncio.run(main())


def test_a_signal_handler_owns_as_the_task_that_it_interrupts() -> None:
    mutex = KMutex(0)

    @signal_handler
    def handler(number: int, frame: object) -> None:
        guard = mutex.try_lock()
        found.append(guard is not None and guard.is_inner)

    found: list[bool] = []

    async def interrupted() -> None:
        signal.raise_signal(signal.SIGUSR1)

    async def main() -> None:
        with mutex.lock(0):
            signal.raise_signal(signal.SIGUSR1)
            await asyncio.create_task(interrupted())

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        asyncio.run(main())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert found == [True, False]


def test_a_section_that_a_task_left_entered_is_left_in_a_child_and_kept_from_other_threads() -> None:
    section = CriticalSection()

    def left_elsewhere() -> str:
        try:
            section.release()
        except NotOwned as error:
            return str(error)
        return ""

    async def main() -> None:
        assert section.acquire(False)
        assert not in_thread(lambda: section.acquire(timeout=0))
        assert not in_child(lambda: section.acquire(timeout=0) or section._is_owned())
        assert "another thread" in in_thread(left_elsewhere)
        section.release()

    asyncio.run(main())
    assert nothing_left(section)


def test_a_guard_of_try_lock_that_is_dropped_by_its_task(backend: str) -> None:
    mutex = KMutex(0)

    async def careless() -> None:
        guard = mutex.try_lock()
        assert guard is not None
        guard.value = 5

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(careless)
        gc.collect()
        assert mutex.fetch_add(1, 0) == 5

    run(backend, main)
