"""What tests of deadlocks share: threads and processes that close a circle of waits, one after the other."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from kinds import acquire
from processes import Child, Line, Worker, wait_for_waiter

from wdkmutex_shm import CriticalSection, DeadlockError, FastMutex, KMutex, LockTimeout, MutexDestroyed


def take_two(line: Line, first: Any, second: Any, timeout: float | None = None) -> None:
    """Lock one mutex, say so, and when told lock the other."""
    with acquire(first):
        line.say("has the first")
        line.hear()
        began = time.monotonic()
        try:
            with acquire(second, timeout):
                line.say("had")
                line.hear()
        except DeadlockError as error:
            line.say((error, time.monotonic() - began))
        except (LockTimeout, KeyboardInterrupt, MutexDestroyed) as error:
            line.say(type(error).__name__)


def children_of(mutexes: list[Any], method: str, timeout: float | None = None) -> list[Any]:
    """One for each mutex, which it holds; it will wait for the next one."""
    pairs = [(mutex, mutexes[(at + 1) % len(mutexes)]) for at, mutex in enumerate(mutexes)]
    if method == "thread":
        return [Worker(take_two, *pair, timeout) for pair in pairs]
    return [Child(take_two, *pair, timeout, method=method) for pair in pairs]


def threads_of(children: list[Any]) -> list[tuple[int, int]]:
    return [
        (child.pid, child.pid) if isinstance(child, Child) else (os.getpid(), child.thread.native_id)
        for child in children
    ]


def close(children: list[Any], mutexes: list[Any]) -> tuple[DeadlockError, float]:
    """Let all of them wait for the next one's mutex, one after the other; return what the last one says."""
    for child in children:
        assert child.hear() == "has the first"
    for at, child in enumerate(children):
        child.say("lock the second")
        if at < len(children) - 1:
            wait_for_waiter(mutexes[(at + 1) % len(mutexes)])
    said: tuple[DeadlockError, float] = children[-1].hear()
    return said


def the_rest_goes_on(children: list[Any]) -> None:
    """The one before the last has its lock when the last one has unwound, and so on; nobody else raises."""
    for child in reversed(children[:-1]):
        assert child.hear() == "had"
        child.say("release")


def called(mutex: Any) -> str:
    kind = {KMutex: "k", FastMutex: "fast", CriticalSection: "section"}[type(mutex)]
    return f"anonymous {kind} mutex {mutex.segment.rpartition('.p')[2]}.{mutex.slot_index} of process {os.getpid()}"


@contextmanager
def ended(children: list[Any]) -> Iterator[list[Any]]:
    """Children that have ended when the ``with`` is left."""
    with ExitStack() as stack:
        for child in children:
            stack.push(child)
        yield children


@contextmanager
def circle(mutexes: list[Any], method: str, timeout: float | None = None) -> Iterator[list[Any]]:
    """As :func:`children_of`; they have ended when the ``with`` is left."""
    with ended(children_of(mutexes, method, timeout)) as children:
        yield children


@contextmanager
def waited_for(mine: Any, theirs: Any, who: Any = Worker) -> Iterator[None]:
    """The caller holds one lock, and who has the other one waits for it, and gets it when the ``with`` is left."""
    with who(take_two, theirs, mine) as other:
        other.hear()
        with acquire(mine):
            other.say("lock the second")
            wait_for_waiter(mine)
            yield
        assert other.hear() == "had"
        other.say("release")
