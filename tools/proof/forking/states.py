"""The states of a mutex, or of several, in which a child is made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wdkmutex_shm import FastMutex, lock_all

from .child import Hold, raised
from .family import GROWN, PATIENCE, Family, T, another_holder, go_on_in_a_child, in_the_next_creation


def _free(family: Family) -> None:
    """The child takes the lock while nobody has it; and dies with it, where the cell says so."""
    family.in_its_thread(lambda: family.make(state=family.cell.state))
    family.end()
    hold = Hold(family.mutex, PATIENCE)
    if hold.abandoned != (family.cell.state == "die"):
        family.note(f"abandoned is {hold.abandoned}")
    hold.raise_and_release()


def _holding(family: Family) -> None:
    """The thread that makes the child holds the lock."""

    def work() -> None:
        hold = Hold(family.mutex, PATIENCE)
        family.make(hold.guard)
        family.lost(family.mutex)
        hold.raise_and_release()
        family.finish()

    family.in_its_thread(work)


def _waiting(family: Family) -> None:
    """A thread waits for the lock, which another process holds; a child is made by its signal handler, or beside it."""
    with another_holder(family.mutex) as (pid, release):

        def make() -> None:
            family.make(holder=pid)
            release()

        family.make_while(lambda: Hold(family.mutex, PATIENCE).raise_and_release(), make)
        family.finish()


def _committing(family: Family) -> None:
    """A commit is under way in the thread that makes the child, or in another one."""
    guard = family.mutex.lock(PATIENCE)
    guard.value = raised(GROWN)
    with in_the_next_creation(lambda: family.make_in_its_thread(guard)):
        guard.commit()
    guard.drop_safe()
    family.finish()


def _committing_goes_on(family: Family) -> None:
    """A signal handler forks inside a commit, and the child returns from it: the commit is the parent's."""
    guard = family.mutex.lock(PATIENCE)
    guard.value = raised(GROWN)
    family.note(go_on_in_a_child(guard.commit))
    family.lost(family.mutex)
    guard.drop_safe()
    if family.mutex.peek()[8:] != GROWN[8:]:
        family.note(f"T is {family.mutex.peek()!r}")


@contextmanager
def _another(family: Family) -> Iterator[FastMutex[bytes]]:
    """Another mutex to lock along, in which a grown T must be in the end."""
    mutex = FastMutex(T)
    try:
        yield mutex
    finally:
        found = mutex.to_owned()
        if found != GROWN:
            family.note(f"the other T is {found!r}")


def _holding_several(family: Family) -> None:
    """The thread that makes the child holds several mutexes: the child has none of them, and publishes nothing."""

    def work() -> None:
        with _another(family) as other:
            guards = lock_all(other, family.mutex, timeout=PATIENCE)
            family.make(guards)
            family.lost(family.mutex, other)
            guards[0].value = GROWN
            if hasattr(family.mutex, "peek"):
                guards[1].value = raised(guards[1].value)
            guards.drop_safe()
            family.finish()

    family.in_its_thread(work)


def _publishing(family: Family) -> None:
    """Several are published in the thread that makes the child, or in another one."""
    with _another(family) as other:
        guards = lock_all(other, family.mutex, timeout=PATIENCE)
        guards[0].value = GROWN
        guards[1].value = raised(T)
        with in_the_next_creation(lambda: family.make_in_its_thread(guards)):
            guards.commit()
        guards.drop_safe()
    family.finish()


def _publishing_goes_on(family: Family) -> None:
    """A signal handler forks while several are published, and the child returns from it: nothing is the child's."""
    with _another(family) as other:
        guards = lock_all(other, family.mutex, timeout=PATIENCE)
        guards[0].value = GROWN
        guards[1].value = raised(GROWN)
        family.note(go_on_in_a_child(guards.commit))
        family.lost(family.mutex, other)
        guards.drop_safe()


def _awaiting(family: Family) -> None:
    """A thread waits for another T, which the child commits; the child is made by its signal handler, or beside it."""

    def wait() -> None:
        with family.mutex.lock_when(lambda value: value != T, timeout=PATIENCE) as guard:
            guard.value = raised(guard.value)

    family.make_while(wait, lambda: family.make(state="free"))


def _task_waits(family: Family) -> None:
    """Two tasks wait for the lock, which another process holds; the loop's thread makes the child, or another one."""
    with another_holder(family.mutex) as (pid, release):

        async def work() -> None:
            async with family.mutex.lock_async(timeout=PATIENCE) as guard:
                if guard.value is not None:
                    guard.value = raised(guard.value)

        async def main() -> None:
            tasks = [asyncio.create_task(work()) for _ in range(2)]
            await asyncio.sleep(0.005)  # so that one of them counts as starving, and both stand in line
            family.make_in_its_thread(holder=pid)
            tasks[0].cancel()
            release()
            await asyncio.wait(tasks, timeout=PATIENCE)
            if not tasks[1].done() or tasks[1].cancelled():
                family.note("a task is stuck")

        asyncio.run(main())
        family.finish()


def _task_holds(family: Family) -> None:
    """A task holds the lock; the loop's thread makes the child, or another one."""

    async def main() -> None:
        async with family.mutex.lock_async(timeout=PATIENCE) as guard:
            family.make_in_its_thread(guard)
            if guard.value is not None:
                guard.value = raised(guard.value)

    asyncio.run(main())
    family.finish()


STATES: dict[str, Callable[[Family], None]] = {
    "free": _free,
    "die": _free,
    "holding": _holding,
    "waiting": _waiting,
    "committing": _committing,
    "committing, child goes on": _committing_goes_on,
    "holding several": _holding_several,
    "committing several": _publishing,
    "committing several, child goes on": _publishing_goes_on,
    "awaiting a value": _awaiting,
    "a task waits": _task_waits,
    "a task holds": _task_holds,
}
