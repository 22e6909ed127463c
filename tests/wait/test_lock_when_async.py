"""The lock and a value at once, in a task: the loop goes on, and whatever ends the wait leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest
from eventloops import BACKENDS, anyio, in_line, nothing_left, run, until
from kinds import destroy
from processes import Child, Line, held_by_child

from wdkmutex_shm import (
    AlreadyOwned,
    FastMutex,
    KMutex,
    LockTimeout,
    MutexDestroyed,
    NotOwned,
    raise_irql,
)
from wdkmutex_shm.wait import (
    value_async,
)

SOON = 0.05
LONG = 30.0

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(params=[KMutex, FastMutex])
def cls(request: pytest.FixtureRequest) -> Any:
    return request.param


def waiting(mutex: Any) -> int:
    post = value_async._posts.get(mutex)
    return len(post.known) if post else 0


def test_what_is_there_takes_no_thread_and_no_switch(cls: Any, backend: str) -> None:
    mutex = cls(7)

    async def main() -> None:
        others = 0

        async def runs() -> None:
            nonlocal others
            others += 1

        async with anyio.create_task_group() as group:
            group.start_soon(runs)
            before = threading.active_count()
            async with mutex.lock_when_async(lambda value: value == 7, timeout=0) as guard:
                guard.value += 1
            guard = await mutex.lock_when_async(lambda value: value == 8)
            guard.value += 1
            guard.drop_safe()
            assert (others, threading.active_count()) == (0, before)
        assert others == 1

    run(backend, main)
    assert mutex.peek() == 9
    assert nothing_left(mutex)
    assert mutex not in value_async._posts


def _serves(line: Line, mutex: Any, rounds: int) -> None:
    line.say()
    for _ in range(rounds):
        with mutex.lock_when(lambda value: value % 2 == 1, LONG) as guard:
            guard.value += 1


def test_turns_with_another_process(cls: Any, backend: str) -> None:
    mutex, rounds = cls(0), 50

    async def main() -> None:
        for _ in range(rounds):
            async with mutex.lock_when_async(lambda value: value % 2 == 0, LONG) as guard:
                guard.value += 1

    with Child(_serves, mutex, rounds) as child:
        child.hear()
        run(backend, main)
        assert mutex.wait_for(lambda value: value == 2 * rounds, LONG) == 2 * rounds
        assert child.end() == 0


def test_many_tasks_and_a_bounded_queue(cls: Any, backend: str) -> None:
    """Each item is put and got once, and the queue is never longer than allowed; the loop goes on."""
    mutex, most, items = cls([]), 3, 60
    got: list[int] = []

    async def puts(first: int) -> None:
        for item in range(first, items, 4):
            async with mutex.lock_when_async(lambda queue: len(queue) < most, LONG) as guard:
                guard.value.append(item)

    async def gets() -> None:
        for _ in range(items // 4):
            async with mutex.lock_when_async(len, LONG) as guard:
                assert len(guard.value) <= most
                got.append(guard.value.pop(0))

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for first in range(4):
                group.start_soon(puts, first)
                group.start_soon(gets)

    run(backend, main)
    assert sorted(got) == list(range(items))
    assert nothing_left(mutex)


def test_the_value_is_there_but_not_the_lock(cls: Any, backend: str) -> None:
    mutex = cls(1)

    async def main(pid: int) -> None:
        with pytest.raises(LockTimeout, match="the value was committed") as caught:
            async with mutex.lock_when_async(bool, SOON):
                pass
        assert caught.value.timeout == SOON
        assert caught.value.owner_pid == pid

    async def again() -> None:
        async with mutex.lock_when_async(bool, LONG) as guard:
            assert guard.value == 1

    with held_by_child(mutex) as child:
        run(backend, main, child.pid)
    run(backend, again)
    assert nothing_left(mutex)


def test_it_changed_while_the_lock_was_waited_for(cls: Any, backend: str) -> None:
    mutex = cls(1)
    order = []

    async def waits() -> None:
        async with mutex.lock_when_async(lambda value: value == 1, LONG) as guard:
            order.append("had")
            assert guard.value == 1

    async def main() -> None:
        async with anyio.create_task_group() as group:
            async with mutex.lock_async() as guard:
                group.start_soon(waits)
                await until(lambda: in_line(mutex) == 1)
                guard.value = 2
            await until(lambda: waiting(mutex) == 1)  # it has had the lock, and given it back
            assert (order, mutex.owner) == ([], None)
            async with mutex.lock_async() as guard:
                guard.value = 1

    run(backend, main)
    assert order == ["had"]
    assert nothing_left(mutex)


def test_no_such_value_in_time(cls: Any, backend: str) -> None:
    mutex = cls(0)

    async def main() -> None:
        for timeout in (0, SOON):
            with pytest.raises(LockTimeout, match="no value of mutex") as caught:
                await mutex.lock_when_async(bool, timeout)
            assert caught.value.timeout == timeout
            assert waiting(mutex) == 0

    run(backend, main)
    assert nothing_left(mutex)


def test_cancelled_wherever_it_waits(cls: Any, backend: str) -> None:
    async def main() -> None:
        for first, expected in ((0, "value"), (1, "lock")):
            mutex = cls(first)
            async with anyio.create_task_group() as group, mutex.lock_async():
                scope = anyio.CancelScope()

                async def waits(mutex: Any = mutex, scope: Any = scope) -> None:
                    with scope:
                        async with mutex.lock_when_async(bool):
                            raise AssertionError("it has the lock")

                group.start_soon(waits)
                await until(lambda: (waiting(mutex) if expected == "value" else in_line(mutex)) == 1)  # noqa: B023
                scope.cancel()
                await until(lambda: not waiting(mutex) and not in_line(mutex))  # noqa: B023
            assert nothing_left(mutex)
            assert mutex.try_lock() is not None if cls is KMutex else True

    run(backend, main)


def test_cancelled_at_any_time(cls: Any, backend: str) -> None:
    """Who is cancelled while others set the value: either it never had the lock, or it gave it back."""
    mutex = cls(0)

    async def main() -> None:
        for after in range(60):
            scope = anyio.CancelScope()

            async def waits(scope: Any = scope) -> None:
                with scope:
                    async with mutex.lock_when_async(lambda value: value % 2 == 1) as guard:
                        await anyio.lowlevel.checkpoint()
                        guard.value += 1

            async with anyio.create_task_group() as group:
                group.start_soon(waits)
                for step in range(8):
                    if step == after % 8:
                        scope.cancel()
                    async with mutex.lock_async(LONG) as guard:
                        guard.value += step % 3
                    await anyio.sleep(0)
            assert nothing_left(mutex)

    run(backend, main)
    assert waiting(mutex) == 0


def test_what_the_predicate_raises(cls: Any, backend: str) -> None:
    mutex = cls(1)
    calls = []

    def predicate(_: int) -> bool:
        calls.append(mutex.owner)
        if len(calls) == 2:
            raise ValueError("with the lock")
        return True

    async def main() -> None:
        with pytest.raises(ValueError, match="with the lock"):
            await mutex.lock_when_async(predicate)

    run(backend, main)
    assert calls[0] is None
    assert calls[1] is not None
    assert nothing_left(mutex)


def test_a_predicate_that_never_holds_with_the_lock(cls: Any, backend: str) -> None:
    """It is asked no faster than others are, and the loop goes on."""
    mutex = cls(1)
    calls = 0

    def predicate(_: int) -> bool:
        nonlocal calls
        calls += 1
        return mutex.owner is None

    async def main() -> None:
        with pytest.raises(LockTimeout):
            await mutex.lock_when_async(predicate, 0.3)

    run(backend, main)
    assert calls < 100  # some 14; without a pause thousands
    assert nothing_left(mutex)


def test_held_by_the_task(cls: Any, backend: str) -> None:
    mutex = cls(0)

    async def main() -> None:
        async with mutex.lock_async():
            with pytest.raises(AlreadyOwned):
                await mutex.lock_when_async(bool)

    run(backend, main)
    assert nothing_left(mutex)


def test_held_since_before_the_loop_ran(cls: Any, backend: str) -> None:
    mutex = cls(0)

    async def main() -> None:
        with pytest.raises(AlreadyOwned, match="before it ran"):
            await mutex.lock_when_async(bool)

    with mutex.lock():
        run(backend, main)
    assert nothing_left(mutex)


def test_held_by_another_task(cls: Any, backend: str) -> None:
    mutex = cls(0)

    async def waits(done: list[int]) -> None:
        async with mutex.lock_when_async(bool, LONG) as guard:
            done.append(guard.value)

    async def main() -> None:
        done: list[int] = []
        async with anyio.create_task_group() as group, mutex.lock_async() as guard:
            group.start_soon(waits, done)
            await until(lambda: waiting(mutex) == 1)
            guard.value = 5
            guard.commit()
            await until(lambda: in_line(mutex) == 1)
            assert done == []
        assert done == [5]

    run(backend, main)
    assert nothing_left(mutex)


def test_the_guard_is_the_tasks(cls: Any, backend: str) -> None:
    mutex = cls(1)

    async def uses(guard: Any) -> None:
        with pytest.raises(NotOwned):
            guard.value = 3

    async def main() -> None:
        async with anyio.create_task_group() as group, mutex.lock_when_async(bool) as guard:
            group.start_soon(uses, guard)
            await anyio.sleep(SOON)

    run(backend, main)
    assert mutex.peek() == 1


def test_awaited_on_behalf_of_a_task(cls: Any, backend: str) -> None:
    """As ``asyncio.wait_for`` does up to Python 3.11; also where the value goes away and the lock is given back."""
    if backend == "trio":
        pytest.skip("asyncio only")
    mutex = cls(0)

    async def main() -> None:
        guard = await asyncio.wait_for(mutex.lock_when_async(lambda value: value == 0), LONG)
        guard.value = 4
        guard.drop_safe()
        with pytest.raises(asyncio.TimeoutError):
            calls = []
            await asyncio.wait_for(mutex.lock_when_async(lambda _: calls.append(1) or len(calls) % 2), SOON)
        assert nothing_left(mutex)

    run(backend, main)
    assert mutex.peek() == 4


def test_the_end_of_the_mutex(cls: Any, backend: str) -> None:
    mutex = cls(0)

    async def waits() -> None:
        with pytest.raises(MutexDestroyed):
            await mutex.lock_when_async(bool)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(waits)
            await until(lambda: waiting(mutex) == 1)
            destroy(mutex)

    run(backend, main)


def _dies(line: Line, mutex: Any) -> None:
    with mutex.lock() as guard:
        guard.value = 1
        guard.commit()
        line.say()
        line.hear()


def test_the_owner_died(cls: Any, backend: str) -> None:
    mutex = cls(0)

    async def main(child: Child) -> None:
        child.kill()
        async with mutex.lock_when_async(bool, LONG) as guard:
            assert guard.abandoned_by == child.pid

    with Child(_dies, mutex) as child:
        child.hear()
        run(backend, main, child)
    assert nothing_left(mutex)


def test_once_and_never(cls: Any, backend: str) -> None:
    mutex = cls(1)

    async def main() -> None:
        request = mutex.lock_when_async(bool)
        (await request).drop_safe()
        with pytest.raises(RuntimeError, match="already awaited"):
            await request
        request = mutex.lock_when_async(bool)
        with pytest.warns(RuntimeWarning, match="never awaited"):
            del request
            gc.collect()
        with pytest.raises(ValueError, match="timeout"):
            mutex.lock_when_async(bool, -1)
        with raise_irql(3):
            (await mutex.lock_when_async(bool)).drop_safe()

    run(backend, main)
    assert nothing_left(mutex)


def test_an_exception_rolls_back(cls: Any, backend: str) -> None:
    mutex = cls(1)

    async def main() -> None:
        with pytest.raises(KeyError):
            async with mutex.lock_when_async(bool) as guard:
                guard.value = 9
                raise KeyError

    run(backend, main)
    assert mutex.peek() == 1
    assert nothing_left(mutex)
