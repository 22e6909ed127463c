"""States in which a child is made: several mutexes held or published, a value or a lock waited for in another way."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from wdkmutex_shm import FastMutex, lock_all

from .child import raised
from .making import (
    GROWN,
    PATIENCE,
    Cell,
    T,
    Wrong,
    by,
    ending,
    go_on_in_a_child,
    holder,
    in_the_next_creation,
    in_thread,
)
from .ways import WAYS, Child

__all__ = ["TOGETHER"]


@contextmanager
def _another(wrong: Wrong, published: bytes) -> Iterator[FastMutex[bytes]]:
    """Another mutex to lock along, in which a T must be in the end."""
    mutex = FastMutex(T)
    try:
        yield mutex
    finally:
        found = mutex.to_owned()
        if found != published:
            wrong.append(f"the other T is {found!r}")


def _holding_several(cell: Cell, mutex: Any) -> Wrong:
    """The thread that makes the child holds several mutexes: the child has none of them, and publishes nothing."""
    wrong: Wrong = []

    def work() -> None:
        with _another(wrong, GROWN) as other:
            guards = lock_all(other, mutex, timeout=PATIENCE)
            made = WAYS[cell.way]((mutex, "held", os.getpid(), T), guards)
            wrong.append(made.hear())
            if mutex.owner is None or other.owner is None:
                wrong.append("the parent lost a lock")
            guards[0].value = GROWN
            if hasattr(mutex, "peek"):
                guards[1].value = raised(guards[1].value)
            guards.drop_safe()
            with ending(made):
                made.tell()
                wrong.append(made.hear())

    if cell.thread == "main":
        work()
    else:
        in_thread(work)
    return wrong


def _publishing(cell: Cell, mutex: Any) -> Wrong:
    """Several are published in the thread that makes the child, or in another one."""
    made: list[Child] = []
    wrong: Wrong = []
    with _another(wrong, GROWN) as other:
        guards = lock_all(other, mutex, timeout=PATIENCE)

        def fork_now() -> None:
            orders = (mutex, "held", os.getpid(), T)
            made.append(by(cell, lambda: WAYS[cell.way](orders, guards)))
            wrong.append(made[0].hear())

        guards[0].value = GROWN
        guards[1].value = raised(T)
        with in_the_next_creation(fork_now):
            guards.commit()
        guards.drop_safe()
    with ending(made[0]):
        made[0].tell()
        wrong.append(made[0].hear())
    return wrong


def _child_goes_on(cell: Cell, mutex: Any) -> Wrong:
    """A signal handler forks while several are published, and the child returns from it: nothing is the child's."""
    wrong: Wrong = []
    with _another(wrong, GROWN) as other:
        guards = lock_all(other, mutex, timeout=PATIENCE)
        guards[0].value = GROWN
        guards[1].value = raised(GROWN)
        wrong.append(go_on_in_a_child(guards.commit))
        if mutex.owner is None or other.owner is None:
            wrong.append("the parent lost a lock")
        guards.drop_safe()
    return wrong


def _awaiting(cell: Cell, mutex: Any) -> Wrong:
    """A thread waits for another T, which the child commits; the child is made by its signal handler, or beside it."""
    orders = (mutex, "free", None, T)
    made: list[Child] = []
    wrong: Wrong = []

    def wait() -> None:
        with mutex.lock_when(lambda value: value != T, timeout=PATIENCE) as guard:
            guard.value = raised(guard.value)

    def make(*_: object) -> None:
        made.append(WAYS[cell.way](orders, None))
        wrong.append(made[0].hear())

    if cell.thread == "main":
        before = signal.signal(signal.SIGALRM, make)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            wait()
        finally:
            signal.signal(signal.SIGALRM, before)
    else:
        waiter = threading.Thread(target=wait)
        waiter.start()
        make()
        waiter.join(PATIENCE)
        if waiter.is_alive():
            wrong.append("who waits for the value is stuck")
    with ending(made[0]):
        return wrong


def _task_waits(cell: Cell, mutex: Any) -> Wrong:
    """Two tasks wait for the lock, which another process holds; the loop's thread makes the child, or another one."""
    made: list[Child] = []
    wrong: Wrong = []
    with holder(mutex) as (pid, release):

        async def work() -> None:
            async with mutex.lock_async(timeout=PATIENCE) as guard:
                if guard.value is not None:
                    guard.value = raised(guard.value)

        async def main() -> None:
            tasks = [asyncio.create_task(work()) for _ in range(2)]
            await asyncio.sleep(0.005)  # so that one of them counts as starving, and both stand in line
            made.append(by(cell, lambda: WAYS[cell.way]((mutex, "held", pid, T), None)))
            wrong.append(made[0].hear())
            tasks[0].cancel()
            release()
            await asyncio.wait(tasks, timeout=PATIENCE)
            if not tasks[1].done() or tasks[1].cancelled():
                wrong.append("a task is stuck")

        asyncio.run(main())
        with ending(made[0]):
            made[0].tell()
            wrong.append(made[0].hear())
    return wrong


def _task_holds(cell: Cell, mutex: Any) -> Wrong:
    """A task holds the lock; the loop's thread makes the child, or another one."""
    made: list[Child] = []
    wrong: Wrong = []

    async def main() -> None:
        async with mutex.lock_async(timeout=PATIENCE) as guard:
            made.append(by(cell, lambda: WAYS[cell.way]((mutex, "held", os.getpid(), T), guard)))
            wrong.append(made[0].hear())
            if guard.value is not None:
                guard.value = raised(guard.value)

    asyncio.run(main())
    with ending(made[0]):
        made[0].tell()
        wrong.append(made[0].hear())
    return wrong


TOGETHER: dict[str, Callable[[Cell, Any], Wrong]] = {
    "holding several": _holding_several,
    "committing several": _publishing,
    "committing several, child goes on": _child_goes_on,
    "awaiting a value": _awaiting,
    "a task waits": _task_waits,
    "a task holds": _task_holds,
}
