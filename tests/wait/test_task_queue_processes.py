"""Tasks of several processes on one mutex: they count right, whoever of them is killed, and a fork inherits no wait."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest
from eventloops import BACKENDS, anyio, in_line, nothing_left, run, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kinds import KINDS, make
from processes import Child, Line, held_by_child, wait_until
from support import Fork

from wdkmutex_shm import FastMutex, KMutex, NotOwned, current_irql
from wdkmutex_shm.wait import task_queue

TASKS = 250
PROCESSES = 4


async def _add(mutex: Any, rounds: int) -> None:
    for _ in range(rounds):
        async with mutex.lock_async() as guard:
            value = guard.value
            await anyio.sleep(0)
            guard.value = value + 1


async def _many(mutex: Any, tasks: int, rounds: int) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(tasks):
            group.start_soon(_add, mutex, rounds)


def _count(line: Line, backend: str, mutex: Any, tasks: int, rounds: int) -> None:
    run(backend, _many, mutex, tasks, rounds)
    line.say("counted")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [FastMutex, KMutex])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_thousand_tasks_count_right(backend: str, kind: Any) -> None:
    mutex = kind(0)
    children = [Child(_count, backend, mutex, TASKS, 2) for _ in range(PROCESSES)]
    for child in children:
        with child:
            assert child.hear(60) == "counted"
            assert child.end() == 0
    assert mutex.peek() == PROCESSES * TASKS * 2
    assert nothing_left(mutex)


@pytest.mark.slow
def test_loops_of_different_kinds_and_a_process_without(backend: str = "asyncio") -> None:
    mutex = KMutex(0)
    spawned = Child(_count, "trio", mutex, 20, 10, method="spawn")
    with spawned, Child(_count, "asyncio", mutex, 20, 10) as other:
        for _ in range(200):
            with mutex.lock() as guard:
                guard.value += 1
        assert other.hear(60) == spawned.hear(60) == "counted"
    assert mutex.peek() == 600
    assert nothing_left(mutex)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_processes_killed_while_their_tasks_hold_and_wait(backend: str) -> None:
    mutex = FastMutex({"count": 0, "by": 0})

    async def add() -> None:
        while True:
            async with mutex.lock_async() as guard:
                guard.value["count"] += 1
                await anyio.sleep(0)
                guard.value["by"] += 1

    async def forever() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(add)

    async def main() -> bool:
        async with mutex.lock_async(timeout=20) as guard:
            assert guard.value["count"] == guard.value["by"], "a commit came about, or did not"
            return bool(guard.abandoned)

    def work(line: Line) -> None:
        line.say()
        run(backend, forever)

    abandoned = 0
    for _ in range(4):
        with Child(work) as one, Child(work) as two:
            for child in (one, two):
                child.hear()
            before = mutex.peek()["count"]
            wait_until(lambda before=before: mutex.peek()["count"] > before + 20)
            one.kill()
            abandoned += run(backend, main)
            two.kill()
            abandoned += run(backend, main)
    assert mutex.statistics().abandoned >= abandoned
    assert nothing_left(mutex) or mutex.owner is None


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_inherits_neither_holds_nor_waits(kind: str) -> None:
    mutex, other = make(kind), make(kind)

    async def wait() -> None:
        async with mutex.lock_async():
            pass

    def child(guard: Any) -> list[str]:
        found = []
        try:
            guard.drop_safe()
        except NotOwned as error:
            found.append(str(error))
        guard.__exit__(None, None, None)
        found.append(str(len(task_queue.waiting)))
        found.append(repr(current_irql()))

        async def use() -> None:
            async with other.lock_async():
                pass
            with pytest.raises(TimeoutError):
                await mutex.lock_async(timeout=0.05)

        asyncio.run(use())
        return found

    async def main() -> None:
        async with mutex.lock_async() as guard:
            task = asyncio.create_task(wait())
            await until(lambda: in_line(mutex) == 1)
            inherited, count, level = await asyncio.to_thread(lambda: Fork(lambda: child(guard)).result())
            assert "inherited over fork" in inherited
            assert count == "0"
            assert "PASSIVE" in level
            assert not guard.released
        await task

    asyncio.run(asyncio.wait_for(main(), 30))
    assert nothing_left(mutex)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_beside_a_helper() -> None:
    mutex, free = FastMutex(0), FastMutex(0)

    async def add() -> int:
        async with free.lock_async() as guard:
            guard.value += 1
        with pytest.raises(TimeoutError):
            await mutex.lock_async(timeout=0.1)
        return 1

    async def main() -> None:
        waiting = asyncio.create_task(_add(mutex, 1))
        await until(lambda: in_line(mutex) == 1)
        assert await asyncio.to_thread(lambda: Fork(lambda: asyncio.run(add())).result()) == 1
        holder.say("release")
        await waiting

    with held_by_child(mutex) as holder:
        asyncio.run(asyncio.wait_for(main(), 30))
    assert mutex.peek() == free.peek() == 1
    assert nothing_left(mutex)


def test_ctrl_c_while_tasks_wait() -> None:
    mutex = FastMutex(0)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
        await mutex.lock_async()

    with held_by_child(mutex) as holder:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(main())
        assert in_line(mutex) == 0
        holder.say("release")
        assert holder.hear() == "released"
    assert nothing_left(mutex)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["asyncio", "cancel", "timeout"]), st.integers(0, 6), st.integers(0, 4)),
        min_size=1,
        max_size=12,
    )
)
def test_any_mixture_of_tasks_leaves_the_mutex_whole(plans: list[tuple[str, int, int]]) -> None:
    """Tasks that work, are cancelled after some turns of the loop, or run out of time, beside another process."""
    mutex = KMutex(0)
    inside = 0
    done: list[int] = []

    async def work(number: int, kind: str, hold: int) -> None:
        nonlocal inside
        try:
            async with mutex.lock_async(timeout=0.0005 * hold if kind == "timeout" else None) as guard:
                inside += 1
                try:
                    assert inside == 1
                    guard.value += 1
                    for _ in range(hold):
                        await asyncio.sleep(0)
                finally:
                    inside -= 1
            done.append(number)
        except TimeoutError:
            assert kind == "timeout"

    async def main() -> None:
        tasks = []
        for number, (kind, turns, hold) in enumerate(plans):
            tasks.append(asyncio.create_task(work(number, kind, hold)))
            for _ in range(turns):
                await asyncio.sleep(0)
            if kind == "cancel":
                tasks[-1].cancel()
        for task, (kind, _, _) in zip(tasks, plans, strict=True):
            try:
                await task
            except asyncio.CancelledError:
                assert kind == "cancel"
        async with mutex.lock_async(timeout=10) as guard:
            assert guard.value == len(done)

    asyncio.run(asyncio.wait_for(main(), 30))
    assert nothing_left(mutex)
