"""What tests of waiting for a value share."""

from __future__ import annotations

import struct
from typing import Any

from processes import Child, Line, Worker, read_shm, slot_offset, state_of, wait_until

from wdkmutex_shm import (
    LockTimeout,
    MutexDestroyed,
)

SOON = 0.05  # seconds: a timeout that is meant to pass
WATCH_AT = 316
WATCHED_AT = 320


def told(mutex: Any) -> int:
    """How often watchers were told of anything, which is when a system call was made."""
    (word,) = struct.unpack("=I", read_shm(mutex.segment, slot_offset(mutex, WATCH_AT), 4))
    return int(word)


def is_free(mutex: Any) -> bool:
    with Worker(lambda line: line.say(mutex.try_lock() is not None)) as worker:
        return bool(worker.hear())


def wait_in(form: str, mutex: Any, predicate: Any, timeout: float | None = None) -> Any:
    """One wait in one of its four forms; returns T as it was found."""
    if form == "lock_when":
        with mutex.lock_when(predicate, timeout) as guard:
            return guard.value
    if form == "wait_for":
        return mutex.wait_for(predicate, timeout)
    if form == "guard":
        with mutex.lock() as guard:
            guard.wait_for(predicate, timeout)
            return guard.value
    for value in mutex.changes(timeout):
        if predicate(value):
            return value
    raise LockTimeout("the changes ended")


def asleep(child: Child) -> None:
    """Return once a child that has said something sleeps."""
    child.hear()
    wait_until(lambda: state_of(child.pid) == "S", "it sleeps")


def waiter(line: Line, mutex: Any, form: str, at_least: int) -> None:
    line.say("waiting")
    try:
        line.say(wait_in(form, mutex, lambda value: value >= at_least))
    except MutexDestroyed:
        line.say("destroyed")
