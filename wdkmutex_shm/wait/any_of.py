"""Any one of several mutexes: ``lock_any``. All of them is ``lock_all``, in `multi.pxi`.

A waiter looks at all of the locks, asks to be told of the release of each, looks again, and sleeps on all of them at
once. A holder's death is told by nobody, so it looks for itself after :data:`LONGEST_SLEEP`.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from ..core._core import (
    ON_RELEASE,
    WAIT_ANY,
    Guards,
    SectionGuard,
    Sleeper,
    Wait,
    check_several,
    lock_all,
    must_not_wait_for_itself,
    sleep_until_any_told,
    take_any,
    watch,
)
from ..errors import LockTimeout
from ..observe import deadlock
from .deadline import Deadline

if TYPE_CHECKING:
    from ..core._core import CriticalSection, Guard, Mutex

__all__ = ["Guards", "SectionGuard", "lock_all", "lock_any"]

#: Seconds of waiting after which a waiter is served next.
STARVING_AFTER = 0.001
#: Seconds of waiting, for each of the mutexes, after which the wait is written down for others: many of them are work.
SHOW_EACH = 0.001

#: Seconds of waiting after which a waiter first looks whether its wait closed a circle; until it looks again; later.
SUSPECT, SOON, RARELY = 0.05, 0.09, 1.0

_calls = itertools.count()


def lock_any(
    *mutexes: Mutex[Any] | CriticalSection, timeout: float | None = None
) -> tuple[int, Guard[Any] | SectionGuard]:
    """Wait until one of the mutexes is free, lock it, and return its index and its guard.

    When several are free, successive calls try a different one first, so that none of them is neglected.
    After a wait of one millisecond, each of them serves the waiter before newcomers. A KMutex that the thread holds
    counts as free and returns an inner guard. A CriticalSection is entered and returns a SectionGuard.

    IRQL: up to APC; with ``timeout=0`` the limit of ``try_lock`` of each.

    Args:
        mutexes: from 1 to 64 (MAXIMUM_WAIT_OBJECTS) KMutexes, FastMutexes and CriticalSections, each at most once.
        timeout: seconds to wait, None for no limit, 0 to not wait.

    Raises:
        LockTimeout: none was free in time.
        AlreadyOwned: the calling thread holds one of the FastMutexes. MutexDestroyed: one of them no longer exists.
        DeadlockError: each of them is held by a thread that waits, directly or indirectly, for a lock of this thread.
        IrqlTooHigh, ValueError, TypeError: checked before anything is locked.
        KeyboardInterrupt, or what a signal handler raises, while waiting.
    """
    check_several(mutexes, "lock_any", timeout)
    first = next(_calls) % len(mutexes)
    got = take_any(mutexes, first, False)
    if got is None and timeout != 0:
        must_not_wait_for_itself(mutexes)
        got = _wait(mutexes, first, Deadline(timeout))
    if got is None:
        held = ", ".join(map(repr, mutexes[:4])) + (", ..." if len(mutexes) > 4 else "")
        raise LockTimeout(f"lock_any: none of {len(mutexes)} was free within {timeout} s: {held}", timeout=timeout)
    return got


def _wait(mutexes: tuple[Any, ...], first: int, deadline: Deadline) -> tuple[int, Guard[Any] | SectionGuard] | None:
    handles = list(mutexes)
    wait = Wait(WAIT_ANY)
    sleeper = Sleeper(mutexes)
    show = min(SHOW_EACH * len(handles), SUSPECT)
    suspect, looks = SUSPECT, 0
    try:
        tickets = [watch(mutex, ON_RELEASE) for mutex in handles]
        got = take_any(mutexes, first, False)
        nap = deadline.nap(STARVING_AFTER)
        if got is None and nap != 0:
            sleep_until_any_told(handles, tickets, nap)
        while got is None and nap != 0:
            waited = wait.waited
            if waited >= show:
                wait.show(handles)
            nap = deadline.nap(max((suspect if waited >= show else show) - waited, STARVING_AFTER))
            free = sleeper.sleep(first, nap)
            got = take_any(mutexes, first if free is None else free, True)
            if got is None and wait.waited >= suspect:
                looks += 1
                suspect = wait.waited + (SOON if looks < 3 else RARELY)
                if sleeper.all_wait(looks > 3):
                    deadlock.refuse(wait.ticket())
        return got
    finally:
        wait.end()
        sleeper.leave()
