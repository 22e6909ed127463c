"""What tests of several mutexes at once share."""

from __future__ import annotations

from typing import Any

from processes import (
    Line,
    in_thread,
)

from wdkmutex_shm import (
    CriticalSection,
    FastMutex,
    KMutex,
    LockTimeout,
    MutexDestroyed,
    lock_all,
)

SOON = 0.05
"""Seconds: a timeout that is meant to pass."""


def free(*mutexes: Any) -> bool:
    """Whether another thread can have all of the locks now."""

    def work() -> bool:
        try:
            with lock_all(*mutexes, timeout=0):
                return True
        except LockTimeout:
            return False

    return bool(in_thread(work))


def mixed() -> tuple[KMutex[int], FastMutex[int], CriticalSection]:
    return KMutex(1), FastMutex(2), CriticalSection()


def waits_for(line: Line, call: Any, mutexes: list[Any], timeout: float | None = None) -> None:
    line.say("waiting")
    try:
        result = call(*mutexes, timeout=timeout)
    except KeyboardInterrupt:
        line.say("interrupted")
        line.hear()
        line.say("ended")
        return
    except MutexDestroyed:
        line.say("destroyed")
        return
    if call is lock_all:
        line.say("had")
        line.hear()
        result.drop_safe()
    else:
        line.say(result[0])
        line.hear()
        result[1].drop_safe()
    line.say("released")
