"""Waiting for a value in a task of asyncio and of Trio: the loop goes on, and what is committed is told."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from kinds import destroy
from processes import Child, Line, held_by_child, wait_until
from support import Fork

from wdkmutex_shm import IrqlTooHigh, KMutex, LockTimeout, MutexDestroyed, raise_irql
from wdkmutex_shm.wait import value_async

SOON = 0.05
LONG = 30.0


def _with_asyncio(main: Callable[[], Awaitable[Any]]) -> Any:
    async def work() -> Any:
        return await main()

    return asyncio.run(work())


def _with_trio(main: Callable[[], Awaitable[Any]]) -> Any:
    return trio.run(main)


@pytest.fixture(params=[_with_asyncio, _with_trio])
def run(request: pytest.FixtureRequest) -> Any:
    return request.param


async def together(run: Any, *tasks: Callable[[], Awaitable[Any]]) -> None:
    """Run tasks at once, to their ends."""
    if run is _with_asyncio:
        await asyncio.gather(*(task() for task in tasks))
        return
    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(task)


async def pause(run: Any, seconds: float) -> None:
    await (asyncio.sleep if run is _with_asyncio else trio.sleep)(seconds)


def waiting_tasks(mutex: Any) -> int:
    post = value_async._posts.get(mutex)
    return len(post.known) if post else 0


def test_a_value_that_is_there(cls: Any, run: Any) -> None:
    mutex = cls(7)

    async def main() -> None:
        assert await mutex.wait_for_async(lambda value: value == 7, timeout=0) == 7
        async for value in mutex.changes(timeout=0):
            assert value == 7

    run(main)
    assert mutex not in value_async._posts


def _commits(line: Line, mutex: Any) -> None:
    while (value := line.hear()) is not None:
        mutex.replace(value)


def test_a_commit_of_another_process(cls: Any, run: Any) -> None:
    mutex = cls(0)
    with Child(_commits, mutex) as child:
        turns = 0

        async def main() -> None:
            done = False

            async def waits() -> None:
                nonlocal done
                assert await mutex.wait_for_async(lambda value: value == 2, LONG) == 2
                done = True

            async def works() -> None:
                nonlocal turns
                while not done:
                    turns += 1
                    if turns in (5, 10):
                        child.say(turns // 5)
                    await pause(run, 0.002)

            await together(run, waits, works)

        run(main)
        assert turns >= 10
        child.say(None)


def test_tasks_and_threads_take_turns(cls: Any, run: Any) -> None:
    mutex, rounds = cls(0), 100

    def work() -> None:
        for _ in range(rounds):
            with mutex.lock_when(lambda value: value % 2 == 1, LONG) as guard:
                guard.value += 1

    async def main() -> None:
        for _ in range(rounds):
            await mutex.wait_for_async(lambda value: value % 2 == 0, LONG)
            if cls is KMutex:
                mutex.fetch_add(1, timeout=0)
            else:
                await _in_thread(run, lambda: mutex.fetch_add(1))

    thread = threading.Thread(target=work)
    thread.start()
    run(main)
    thread.join()
    assert mutex.peek() == 2 * rounds


async def _in_thread(run: Any, work: Callable[[], Any]) -> Any:
    return await (asyncio.to_thread if run is _with_asyncio else trio.to_thread.run_sync)(work)


def test_a_thousand_tasks_and_one_thread(cls: Any, run: Any) -> None:
    mutex, tasks = cls(0), 1000
    served = []

    async def main() -> None:
        async def waits() -> None:
            served.append(await mutex.wait_for_async(bool, LONG))

        async def commits() -> None:
            before = threading.active_count()
            while waiting_tasks(mutex) < tasks:
                await pause(run, 0.01)
            assert threading.active_count() <= before + 1
            await _in_thread(run, lambda: mutex.replace(1))

        await together(run, *[waits] * tasks, commits)

    run(main)
    assert served == [1] * tasks
    assert waiting_tasks(mutex) == 0


def test_changes(cls: Any, run: Any) -> None:
    mutex, last = cls(0), 2000
    seen = []

    def work() -> None:
        for _ in range(last):
            mutex.fetch_add(1)

    async def main() -> None:
        thread = threading.Thread(target=work)
        thread.start()
        async for value in mutex.changes():
            seen.append(value)
            if value == last:
                break
        thread.join()

    run(main)
    assert seen == sorted(seen)
    assert seen[-1] == last


def test_a_timeout(cls: Any, run: Any) -> None:
    mutex = cls(1)

    async def main() -> None:
        for timeout in (0, SOON):
            with pytest.raises(LockTimeout) as caught:
                await mutex.wait_for_async(lambda value: value == 2, timeout)
            assert caught.value.timeout == timeout
        assert [value async for value in mutex.changes(SOON)] == [1]

    run(main)
    with pytest.raises(ValueError, match="timeout"):
        mutex.wait_for_async(bool, -1)


def test_a_predicate_that_raises(cls: Any, run: Any) -> None:
    mutex = cls(1)

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await mutex.wait_for_async(lambda value: 1 // 0)

    run(main)
    assert mutex.owner is None


def test_the_lock_does_not_matter(cls: Any, run: Any) -> None:
    mutex = cls(1)

    async def main() -> None:
        assert await mutex.wait_for_async(bool) == 1

    with held_by_child(mutex):
        run(main)


def test_another_task_of_the_thread_may_hold_it(run: Any) -> None:
    mutex = KMutex(0)

    async def main() -> None:
        async def holds() -> None:
            with mutex.lock(timeout=0) as guard:
                while not waiting_tasks(mutex):
                    await pause(run, 0.001)
                guard.value = 1

        async def waits() -> None:
            await mutex.wait_for_async(bool, LONG)

        await together(run, holds, waits)

    run(main)


def test_the_end_of_the_mutex(cls: Any, run: Any) -> None:
    mutex = cls(0)

    async def main() -> None:
        async def waits() -> None:
            with pytest.raises(MutexDestroyed):
                await mutex.wait_for_async(bool)

        async def iterates() -> None:
            with pytest.raises(MutexDestroyed):
                async for value in mutex.changes():
                    assert value == 0

        async def ends() -> None:
            while waiting_tasks(mutex) < 2:
                await pause(run, 0.001)
            destroy(mutex)

        await together(run, waits, iterates, ends)

    run(main)


def test_a_cancelled_task_leaves_nothing(cls: Any) -> None:
    mutex = cls(0)

    async def with_asyncio() -> None:
        task = asyncio.create_task(mutex.wait_for_async(bool))
        while not waiting_tasks(mutex):
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert waiting_tasks(mutex) == 0

    async def with_trio() -> None:
        with trio.move_on_after(SOON) as scope:
            await mutex.wait_for_async(bool)
        assert scope.cancelled_caught
        assert waiting_tasks(mutex) == 0

    asyncio.run(with_asyncio())
    trio.run(with_trio)


def test_a_loop_that_ended_before_it_was_told(cls: Any) -> None:
    mutex = cls(0)

    async def main() -> None:
        coroutine = mutex.wait_for_async(bool)
        coroutine.send(None)  # begins to wait, and is never asked again
        coroutine.close()

    asyncio.run(main())
    mutex.replace(1)

    async def again() -> None:
        assert await mutex.wait_for_async(bool, LONG) == 1

    asyncio.run(again())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_ended_and_nothing_is_committed(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its tasks nor the thread are kept for a commit that may never come, and others see nobody wait."""
    monkeypatch.setattr(value_async, "_LINGER", 0.1)
    monkeypatch.setattr(value_async, "_GIVEN_UP", 0.1)
    mutex = cls(0)
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(mutex.wait_for_async(bool))]
    while not mutex.waiters():
        loop.run_until_complete(asyncio.sleep(0.01))
    loop.set_exception_handler(lambda *_: None)  # a task is destroyed that did not end
    loop.close()
    tasks.clear()
    wait_until(lambda: mutex not in value_async._posts, "the thread ends")
    gc.collect()
    assert not mutex.waiters()


def test_a_forked_child_waits_for_itself(cls: Any, run: Any) -> None:
    mutex = cls(0)

    async def waits() -> int:
        return int(await mutex.wait_for_async(bool, LONG))

    async def main() -> None:
        with pytest.raises(LockTimeout):
            await mutex.wait_for_async(bool, SOON)

    run(main)  # the thread that waits for this process is there, and not in the child
    with Fork(lambda: run(waits)) as child:
        mutex.replace(1)
        assert child.result() == 1


def test_the_thread_ends_when_nobody_waits(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mutex = cls(0)
    monkeypatch.setattr(value_async, "_LINGER", SOON)

    async def main() -> None:
        with pytest.raises(LockTimeout):
            await mutex.wait_for_async(bool, SOON)

    for _ in range(2):
        asyncio.run(main())
        wait_until(lambda: mutex not in value_async._posts, "the thread ends")


def test_any_irql(cls: Any) -> None:
    mutex = cls(1)

    async def main() -> int:
        with raise_irql(3):
            return int(await mutex.wait_for_async(bool))

    assert asyncio.run(main()) == 1


def test_outside_of_a_loop(cls: Any) -> None:
    mutex = cls(1)
    coroutine = mutex.wait_for_async(bool)
    with pytest.raises(RuntimeError):  # in the words of the library that was imported
        coroutine.send(None)


def test_the_blocking_forms_say_no(cls: Any) -> None:
    mutex = cls(0)

    async def main() -> None:
        with pytest.raises(IrqlTooHigh):
            for _ in mutex.changes():
                break

    asyncio.run(main())


def test_waiting_tasks_use_no_processor(cls: Any, run: Any) -> None:
    mutex = cls(0)

    async def main() -> float:
        async def waits() -> None:
            with pytest.raises(LockTimeout):
                await mutex.wait_for_async(bool, 1.0)

        began = time.process_time()
        await together(run, *[waits] * 10)
        return time.process_time() - began

    assert run(main) < 0.25
