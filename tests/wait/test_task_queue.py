"""lock_async() within one loop: tasks exclude each other, each has what is its own, and the level stays as it is."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from eventloops import BACKENDS, anyio, in_line, nothing_left, run, until
from kinds import KINDS, make
from processes import in_thread

from wdkmutex_shm import (
    AlreadyOwned,
    CriticalSection,
    FastMutex,
    IrqlTooHigh,
    KMutex,
    LockTimeout,
    NotOwned,
)

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_free_lock_takes_no_switch_and_no_thread(backend: str, kind: str) -> None:
    mutex = make(kind)
    seen: list[str] = []

    async def other() -> None:
        seen.append("other")

    async def main() -> None:
        threads = threading.active_count()
        async with anyio.create_task_group() as group:
            group.start_soon(other)
            async with mutex.lock_async() as guard:
                seen.append("held")
                assert mutex.owner is not None
                assert guard.mutex == mutex
                assert not guard.abandoned
            guard = await mutex.lock_async()
            guard.drop_safe()
            seen.append("released")
        assert threading.active_count() <= threads
        assert guard.released

    run(backend, main)
    assert seen == ["held", "released", "other"]
    assert nothing_left(mutex)


@pytest.mark.parametrize("mutex", [KMutex, FastMutex])
def test_leaving_commits_and_an_exception_rolls_back(backend: str, mutex: Any) -> None:
    jobs = mutex({"todo": [1, 2]})

    async def main() -> None:
        async with jobs.lock_async() as guard:
            guard.value["todo"].append(3)
            await anyio.sleep(0)
        with pytest.raises(KeyError):
            async with jobs.lock_async() as guard:
                guard.value["todo"].clear()
                await anyio.sleep(0)
                raise KeyError
        with await jobs.lock_async() as guard:
            guard.value["todo"].append(4)
            guard.commit()
            guard.value["todo"].append(5)
            guard.rollback()

    run(backend, main)
    assert jobs.peek() == {"todo": [1, 2, 3, 4]}


@pytest.mark.parametrize("kind", KINDS)
def test_tasks_exclude_each_other_and_are_served_in_order(backend: str, kind: str) -> None:
    mutex = make(kind)
    order: list[int] = []

    async def task(number: int) -> None:
        async with mutex.lock_async():
            order.append(number)
            await anyio.sleep(0)
            order.append(number)

    async def main() -> None:
        threads = threading.active_count()
        async with anyio.create_task_group() as group, mutex.lock_async():
            for number in range(20):
                group.start_soon(task, number)
                await until(lambda number=number: in_line(mutex) == number + 1)
        assert threading.active_count() <= threads + 1, "one helper looks after the whole line"

    run(backend, main)
    assert order == [number for number in range(20) for _ in range(2)]
    assert nothing_left(mutex)


def test_a_newcomer_does_not_overtake(backend: str) -> None:
    mutex = FastMutex(0)
    order: list[str] = []

    async def task(name: str) -> None:
        async with mutex.lock_async():
            order.append(name)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            guard = await mutex.lock_async()
            group.start_soon(task, "first")
            await until(lambda: in_line(mutex) == 1)
            guard.drop_safe()  # the lock is free, and promised
            assert mutex.owner is None
            with pytest.raises(LockTimeout):
                await mutex.lock_async(timeout=0)
            await task("newcomer")

    run(backend, main)
    assert order == ["first", "newcomer"]


def test_the_same_task_may_lock_a_kmutex_again(backend: str) -> None:
    mutex = KMutex(1)

    async def main() -> None:
        async with mutex.lock_async() as outer:
            outer.value += 1
            async with mutex.lock_async() as inner:
                assert inner.is_inner
                inner.value += 1
                with pytest.raises(RuntimeError, match="half-way"):
                    async with mutex.lock_async() as third:
                        third.value = 100
                        raise RuntimeError("half-way")
            with mutex.lock(timeout=0) as inner:
                assert inner.is_inner
                inner.value += 1
            guard = mutex.try_lock()
            assert guard is not None
            guard.drop_safe()
            assert mutex.fetch_add(1, 0) == 4
            assert mutex.replace(6, 0) == 5
            assert mutex.peek() == 1
            assert mutex.owner is not None

    run(backend, main)
    assert mutex.peek() == 6
    assert nothing_left(mutex)


def test_the_same_task_may_lock_again_while_others_wait(backend: str) -> None:
    section = CriticalSection()

    async def other() -> None:
        async with section.lock_async():
            pass

    async def main() -> None:
        async with anyio.create_task_group() as group, section.lock_async() as hold:
            assert hold.value is None
            group.start_soon(other)
            await until(lambda: in_line(section) == 1)
            async with section.lock_async() as again:
                assert again.is_inner
            assert section.locked()
            with pytest.raises(TypeError):
                hold.value = 1

    run(backend, main)
    assert nothing_left(section)


def test_the_same_task_cannot_lock_a_fast_mutex_again(backend: str) -> None:
    mutex = FastMutex(0)

    async def main() -> None:
        async with mutex.lock_async():
            with pytest.raises(AlreadyOwned, match="this task holds"):
                await mutex.lock_async(timeout=5)
            with pytest.raises(AlreadyOwned):
                async with mutex.lock_async():
                    pass

    run(backend, main)
    assert nothing_left(mutex)


def test_what_a_task_holds_is_held_by_another_for_the_rest_of_its_thread(backend: str) -> None:
    k, fast, section = KMutex(0), FastMutex(0), CriticalSection()

    async def other() -> None:
        assert k.try_lock() is None
        for call in (lambda: k.lock(timeout=0), lambda: k.fetch_add(1, 0), lambda: k.replace(1, 0)):
            with pytest.raises(LockTimeout):
                call()
        assert not section.try_enter()
        assert not section.acquire(blocking=False)
        with pytest.raises(NotOwned, match="another task"):
            section.leave()
        with pytest.raises(IrqlTooHigh):
            fast.try_lock()
        for mutex in (k, fast, section):
            with pytest.raises(LockTimeout):
                await mutex.lock_async(timeout=0)
            with pytest.raises(LockTimeout):
                await mutex.lock_async(timeout=0.01)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            async with k.lock_async(), fast.lock_async(), section.lock_async():
                assert not section.abandoned
                assert section.try_enter()
                section.leave()
                async with anyio.create_task_group() as inner:
                    inner.start_soon(other)
            group.start_soon(anyio.sleep, 0)

    run(backend, main)
    assert all(nothing_left(mutex) for mutex in (k, fast, section))


def test_a_guard_is_of_no_use_to_another_task_or_thread(backend: str) -> None:
    mutex = KMutex(7)

    async def other(guard: Any) -> None:
        with pytest.raises(NotOwned, match="another task"):
            guard.value
        with pytest.raises(NotOwned, match="another task"):
            guard.value = 1
        for use in (guard.commit, guard.rollback, guard.drop_safe, guard.__enter__):
            with pytest.raises(NotOwned, match="another task"):
                use()
        with pytest.raises(NotOwned, match="another task"):
            guard.__exit__(None, None, None)

    def elsewhere(guard: Any) -> str:
        try:
            guard.value
        except NotOwned as error:
            return str(error)
        return ""

    async def main() -> None:
        async with mutex.lock_async() as guard:
            async with anyio.create_task_group() as group:
                group.start_soon(other, guard)
            assert "another thread" in in_thread(elsewhere, guard)
            guard.value = 8
        with pytest.raises(NotOwned, match="already released"):
            guard.value

    run(backend, main)
    assert mutex.peek() == 8
