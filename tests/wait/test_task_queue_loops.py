"""Several loops, and loops, tasks and threads that end: whoever else waits goes on, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from typing import Any

import pytest
from eventloops import BACKENDS, anyio, in_line, nothing_left, run, until
from processes import Child, Line, Worker, held_by_child, hold_until_told

from wdkmutex_shm import FastMutex, KMutex


@pytest.mark.parametrize("backend", BACKENDS)
def test_loops_of_several_threads(backend: str) -> None:
    mutex = KMutex(0)
    rounds, tasks = 20, 10

    async def work() -> None:
        for _ in range(rounds):
            async with mutex.lock_async() as guard:
                value = guard.value
                await anyio.sleep(0)
                guard.value = value + 1

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(tasks):
                group.start_soon(work)

    def loop(line: Line, kind: str) -> None:
        run(kind, main)
        line.say("done")

    with Worker(loop, backend) as one, Worker(loop, "asyncio") as two:
        with mutex.lock() as guard:  # a thread without a loop takes part as well
            guard.value += 1
        assert (one.hear(), two.hear()) == ("done", "done")
    assert mutex.peek() == 2 * rounds * tasks + 1
    assert nothing_left(mutex)


def test_a_loop_that_is_closed_while_its_tasks_wait() -> None:
    mutex = FastMutex(0)
    loop = asyncio.new_event_loop()

    async def wait() -> None:
        async with mutex.lock_async():
            raise AssertionError("the loop is closed")

    with held_by_child(mutex) as holder:
        task = loop.create_task(wait())
        loop.run_until_complete(asyncio.sleep(0.01))
        assert in_line(mutex) == 1
        loop.close()
        holder.say("release")
        assert holder.hear() == "released"

        async def main() -> None:
            async with mutex.lock_async(timeout=20) as guard:
                guard.value += 1

        asyncio.run(main())
    # As asyncio does it at the end of a task that is still pending.
    loop.set_exception_handler(None)
    loop.call_exception_handler = lambda context: None  # type: ignore[method-assign]
    del task
    gc.collect()
    assert nothing_left(mutex)


def test_a_loop_that_does_not_run_any_more_is_passed_over() -> None:
    mutex = FastMutex(0)
    loop = asyncio.new_event_loop()

    async def wait() -> None:
        async with mutex.lock_async() as guard:
            guard.value += 1

    with held_by_child(mutex) as holder:
        tasks = [loop.create_task(wait()) for _ in range(2)]
        loop.run_until_complete(asyncio.sleep(0.01))
        assert in_line(mutex) == 2

        async def main() -> None:
            async with mutex.lock_async(timeout=20) as guard:
                assert in_line(mutex) == 2
                guard.value += 1

        holder.say("release")
        asyncio.run(main())
        assert mutex.peek() == 1
    loop.run_until_complete(asyncio.wait_for(asyncio.gather(*tasks), 20))  # it goes on, and they are still in line
    loop.close()
    assert mutex.peek() == 3
    assert nothing_left(mutex)


def test_a_loop_that_stops_after_a_task_of_it_held() -> None:
    """The lock is released after the loop ended, so the release wakes a task that cannot look."""
    mutex = FastMutex(0)
    stopped = asyncio.new_event_loop()

    async def wait() -> None:
        async with mutex.lock_async() as guard:
            guard.value += 1

    async def hold() -> tuple[Any, asyncio.Task[None]]:
        guard = await mutex.lock_async()
        task = asyncio.get_running_loop().create_task(wait())
        await until(lambda: in_line(mutex) == 1)
        return guard, task

    guard, task = stopped.run_until_complete(hold())
    del guard
    assert mutex.owner is None and in_line(mutex) == 1

    async def main() -> None:
        async with mutex.lock_async(timeout=20) as guard:
            guard.value += 1

    asyncio.run(main())
    assert mutex.peek() == 1
    stopped.run_until_complete(asyncio.wait_for(task, 20))
    stopped.close()
    assert mutex.peek() == 2
    assert nothing_left(mutex)


@pytest.mark.parametrize("way", ["async with", "with"])
def test_a_task_that_is_destroyed_while_it_holds(way: str) -> None:
    mutex = KMutex(0)
    loop = asyncio.new_event_loop()
    loop.call_exception_handler = lambda context: None  # type: ignore[method-assign]

    async def work() -> None:
        if way == "with":
            with await mutex.lock_async() as guard:
                guard.value += 1
                await asyncio.get_running_loop().create_future()
        async with mutex.lock_async() as guard:
            guard.value += 1
            await asyncio.get_running_loop().create_future()

    task = loop.create_task(work())
    loop.run_until_complete(asyncio.sleep(0.01))
    assert mutex.owner is not None
    del task
    gc.collect()
    assert nothing_left(mutex)
    assert mutex.peek() == 0, "what ends a task is an exception to it, which rolls back"
    loop.close()


def test_hold_in_a_thread_that_ends(backend: str = "asyncio") -> None:
    mutex = FastMutex(0)
    box: list[Any] = []

    async def take() -> None:
        box.append(await mutex.lock_async())

    def loop(line: Line) -> None:
        run(backend, take)
        line.say()

    async def main() -> None:
        async with mutex.lock_async(timeout=20) as guard:
            assert guard.abandoned, "to the kernel its holder has died"
            guard.value += 1

    with Worker(loop) as worker:
        worker.hear()
    run(backend, main)
    box.clear()
    gc.collect()
    run(backend, main_again := _take_again(mutex))
    del main_again
    assert mutex.peek() == 2
    assert nothing_left(mutex)


def _take_again(mutex: Any) -> Any:
    async def again() -> None:
        async with mutex.lock_async(timeout=20) as guard:
            assert not guard.abandoned
            guard.value += 1

    return again


def test_hold_until_told_is_fair_to_tasks() -> None:
    """A process that waits for the lock in the usual way gets it although tasks pass it on among themselves."""
    mutex = FastMutex(0)
    end: list[bool] = []

    async def pass_on() -> None:
        while not end:
            async with mutex.lock_async():
                await asyncio.sleep(0)

    async def main() -> None:
        tasks = [asyncio.create_task(pass_on()) for _ in range(3)]
        with Child(hold_until_told, mutex) as child:
            await asyncio.to_thread(child.hear)
            child.say("release")
            await asyncio.to_thread(child.hear)
        end.append(True)
        await asyncio.gather(*tasks)

    asyncio.run(asyncio.wait_for(main(), 60))
    assert nothing_left(mutex)


def test_a_guard_dropped_in_another_thread_while_tasks_wait() -> None:
    """Only the loop's thread can release it, and it has nothing else to lock: so the first in line is woken for it."""
    mutex = FastMutex(0)

    async def wait() -> None:
        async with mutex.lock_async(timeout=20) as guard:
            guard.value += 1

    async def main() -> None:
        box = [await mutex.lock_async()]
        task = asyncio.create_task(wait())
        await until(lambda: in_line(mutex) == 1)
        await asyncio.to_thread(box.clear)
        await task

    def loop(line: Line) -> None:
        asyncio.run(asyncio.wait_for(main(), 30))
        line.say()

    with Worker(loop) as worker:
        worker.hear()
    assert mutex.peek() == 1
    assert nothing_left(mutex)


def test_the_interpreter_ends_while_a_task_waits() -> None:
    code = """
import asyncio
from wdkmutex_shm import FastMutex
mutex = FastMutex(0)
async def wait():
    async with mutex.lock_async():
        pass
loop = asyncio.new_event_loop()
guard = mutex.lock()
import threading
def run():
    loop.create_task(wait())
    loop.run_until_complete(asyncio.sleep(0.05))
thread = threading.Thread(target=run)
thread.start()
thread.join()
print("end")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr
