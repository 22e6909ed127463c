"""A task that waits is told of releases, deaths and the mutex's end; it may give up at any point and leaves nothing."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from eventloops import BACKENDS, anyio, in_line, nothing_left, run, starving, until
from kinds import KINDS, make
from processes import Child, Line, held_by_child, wait_until

from wdkmutex_shm import FastMutex, KMutex, LockTimeout, MutexDestroyed
from wdkmutex_shm.wait import task_queue


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_release_in_another_process(backend: str, kind: str) -> None:
    mutex = make(kind)

    async def main(holder: Child) -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await anyio.sleep(0.001)

        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            with pytest.raises(LockTimeout) as caught:
                await mutex.lock_async(timeout=0.1)
            assert ticks > 3, "the loop goes on"
            error = caught.value
            assert (error.timeout, error.owner_pid) == (0.1, holder.pid)
            assert error.held_for is not None
            assert f"process {holder.pid}" in str(error)
            assert mutex.statistics().timeouts == 1
            with pytest.raises(LockTimeout):
                await mutex.lock_async(timeout=0)
            group.start_soon(anyio.to_thread.run_sync, holder.say, "release")
            async with mutex.lock_async(timeout=20) as guard:
                assert not guard.abandoned
            group.cancel_scope.cancel()

    with held_by_child(mutex) as holder:
        run(backend, main, holder)
        assert holder.hear() == "released"
    assert nothing_left(mutex)
    assert mutex.statistics().contended == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_holder_that_is_killed(backend: str, kind: str) -> None:
    mutex = make(kind)

    async def main(holder: Child) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await until(lambda: in_line(mutex) == 1 and starving(mutex) == 1)
            await anyio.to_thread.run_sync(holder.kill)

    async def wait() -> None:
        async with mutex.lock_async() as guard:
            assert guard.abandoned
            assert guard.abandoned_by == holder.pid
        async with mutex.lock_async() as guard:
            assert not guard.abandoned

    with held_by_child(mutex) as holder:
        run(backend, main, holder)
    assert nothing_left(mutex)


async def _wait_in_vain(mutex: Any, told: list[MutexDestroyed]) -> None:
    with pytest.raises(MutexDestroyed) as caught:
        async with mutex.lock_async():
            pass
    told.append(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mutex_destroyed_under_those_who_wait(backend: str, kind: str) -> None:
    mutex = make(kind)
    told: list[MutexDestroyed] = []

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(_wait_in_vain, mutex, told)
            await until(lambda: in_line(mutex) == 5)
            assert mutex._vacate()

    with held_by_child(mutex):
        run(backend, main)
    assert len(told) == 5
    assert in_line(mutex) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mutex_destroyed_while_a_task_of_the_loop_holds_it(backend: str, kind: str) -> None:
    mutex = make(kind)
    told: list[MutexDestroyed] = []

    async def main() -> None:
        async with anyio.create_task_group() as group, mutex.lock_async():
            for _ in range(3):
                group.start_soon(_wait_in_vain, mutex, told)
            await until(lambda: in_line(mutex) == 3)
            assert mutex._vacate()
            with anyio.fail_after(20):
                await until(lambda: len(told) == 3)  # before the holder lets go

    run(backend, main)
    assert in_line(mutex) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_who_gives_up_leaves_nothing(backend: str) -> None:
    mutex = FastMutex(0)
    got: list[int] = []

    async def wait(number: int, scope: anyio.CancelScope) -> None:
        with scope:
            async with mutex.lock_async():
                got.append(number)

    async def main(holder: Child) -> None:
        scopes = [anyio.CancelScope() for _ in range(5)]
        async with anyio.create_task_group() as group:
            for number, scope in enumerate(scopes):
                group.start_soon(wait, number, scope)
                await until(lambda number=number: in_line(mutex) == number + 1)
            await until(lambda: starving(mutex) == 1)
            scopes[0].cancel()  # the first in line, who counts as starving
            scopes[3].cancel()
            await until(lambda: in_line(mutex) == 3)
            holder.say("release")

    with held_by_child(mutex) as holder:
        run(backend, main, holder)
    assert got == [1, 2, 4]
    assert nothing_left(mutex)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_wake_of_who_gives_up_is_passed_on(backend: str, kind: str) -> None:
    mutex = make(kind)
    got: list[str] = []

    async def wait(name: str, scope: anyio.CancelScope) -> None:
        with scope:
            async with mutex.lock_async():
                got.append(name)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            guard = await mutex.lock_async()
            first, second = anyio.CancelScope(), anyio.CancelScope()
            group.start_soon(wait, "first", first)
            await until(lambda: in_line(mutex) == 1)
            group.start_soon(wait, "second", second)
            await until(lambda: in_line(mutex) == 2)
            guard.drop_safe()  # wakes the first
            first.cancel()  # which is cancelled before it runs

    run(backend, main)
    assert got in (["second"], ["first", "second"])
    assert nothing_left(mutex)


@pytest.mark.parametrize("steps", range(12))
@pytest.mark.parametrize("others", [0, 1, 3])
def test_cancelled_after_so_many_turns_of_the_loop(steps: int, others: int) -> None:
    """Whatever it is doing then: waiting in line, woken, holding the lock, releasing it."""
    mutex = KMutex(0)

    async def work() -> None:
        for _ in range(2):
            async with mutex.lock_async() as guard:
                guard.value += 1
                await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def main() -> None:
        async with mutex.lock_async():
            tasks = [asyncio.create_task(work()) for _ in range(others + 1)]
            await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [task.cancelled() or task.exception() is None for task in tasks] == [True] * len(tasks)
        async with mutex.lock_async(timeout=5) as guard:
            assert 2 * others <= guard.value <= 2 * others + 2

    asyncio.run(asyncio.wait_for(main(), 30))
    assert nothing_left(mutex)


def test_wait_for_that_runs_out_at_any_moment() -> None:
    mutex = FastMutex(0)

    async def main(line: Line) -> None:
        for number in range(40):
            line.say()
            try:
                with await asyncio.wait_for(mutex.lock_async(), 0.0005 * (number % 8)) as guard:
                    guard.value += 1
            except (asyncio.TimeoutError, TimeoutError):
                pass
        line.say("end")
        async with mutex.lock_async(timeout=20):
            pass

    def hold(line: Line) -> None:
        line.say()
        while line.hear() != "end":
            with mutex.lock() as guard:
                guard.value += 1
        line.say()

    with Child(hold) as child:
        child.hear()
        asyncio.run(main(child))
        child.hear()  # it may be behind, and must not be ended while it has the lock
    gc.collect()
    assert nothing_left(mutex)


def test_the_helper_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_queue, "_LINGER", 0.01)
    mutex = FastMutex(0)

    async def main() -> None:
        with pytest.raises(LockTimeout):
            await mutex.lock_async(timeout=0.05)

    def helpers() -> int:
        return sum(thread.name == "wdkmutex-waits" for thread in threading.enumerate())

    wait_until(lambda: helpers() == 0, "those of other tests have ended")
    with held_by_child(mutex):
        asyncio.run(main())
        assert helpers() <= 1
    wait_until(lambda: helpers() == 0, "the helper has ended")
    assert starving(mutex) == 0
    assert mutex not in task_queue.waiting


def test_nobody_polls_faster_than_50_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    mutex = FastMutex(0)
    looks = {"helper": 0, "tasks": 0}

    def counted(name: str, work: Any) -> Any:
        def call(*args: Any) -> Any:
            looks[name] += 1
            return work(*args)

        return call

    monkeypatch.setattr(task_queue, "is_free", counted("helper", task_queue.is_free))
    monkeypatch.setattr(task_queue, "attempt_for_task", counted("tasks", task_queue.attempt_for_task))

    async def main() -> float:
        tasks = [asyncio.create_task(_once(mutex)) for _ in range(100)]
        await until(lambda: in_line(mutex) == 100)
        await asyncio.sleep(0.1)  # the first in line looks when it joins, and when it has waited 1 ms
        looks.update(helper=0, tasks=0)
        began = time.monotonic()
        await asyncio.sleep(1)
        took = time.monotonic() - began
        found = dict(looks)
        holder.say("release")
        await asyncio.gather(*tasks)
        assert found["helper"] <= 50 * took, found
        assert found["tasks"] == 0, found
        return took

    with held_by_child(mutex) as holder:
        asyncio.run(asyncio.wait_for(main(), 60))
    assert mutex.peek() == 100
    assert nothing_left(mutex)


async def _once(mutex: Any) -> None:
    async with mutex.lock_async() as guard:
        guard.value += 1


def test_who_does_not_wait_in_a_loop_pays_for_nothing() -> None:
    code = """
import sys, threading, wdkmutex_shm
with wdkmutex_shm.KMutex(0).lock() as guard:
    guard.value += 1
print({"asyncio", "trio"} & sys.modules.keys())
import asyncio
async def main():
    async with wdkmutex_shm.KMutex(0).lock_async() as guard:
        guard.value += 1
asyncio.run(main())
print({"trio"} & sys.modules.keys(), threading.active_count())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\nset() 1\n", done.stderr
