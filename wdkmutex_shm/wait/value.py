"""Waiting for a value: for the T that a predicate wants, and for whatever comes next.

No one has to notify: every commit wakes those who wait for one. A waiter looks at the committed T without the lock, so
waiters contend neither with each other nor with those who work; only when the predicate holds is the lock taken and
the predicate asked again. Who waits sleeps in the kernel, and looks again after ``LONGEST_SLEEP`` at the latest,
because the maker of a commit may be killed before it could tell.

The predicate is given a T of its own, fresh from the committed bytes: what it does to it is lost. What it raises goes
to the caller, and no lock is left behind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ..core import _core
from ..core._core import ON_COMMIT, WAIT_VALUE, Wait, commits, left_by_the_dead, sleep_until_told, watch
from ..errors import AlreadyOwned, DeadlockError, LockTimeout, MutexDestroyed
from .deadline import Deadline

if TYPE_CHECKING:
    from ..core._core import Guard, Mutex

__all__ = [
    "finish_for_the_dead",
    "lock_when",
    "must_not_hold",
    "newest",
    "no_value",
    "sleep_until_commit",
    "wait_for",
    "wait_in_guard",
]

T = TypeVar("T")

#: Seconds of waiting after which a waiter is to be seen by others.
SHOWN_AFTER = 0.001
_STEADY_LOOKS = 100


def must_not_hold(mutex: Mutex[Any], operation: str) -> None:
    if mutex._is_mine():
        raise AlreadyOwned(
            f"{operation}: the caller holds mutex {mutex.name!r}, so no other thread can change T; use "
            "guard.wait_for(), or look at guard.value",
            name=mutex.name,
        )


def no_value(mutex: Mutex[Any], timeout: float | None, operation: str) -> LockTimeout:
    """Return the error for a value that did not come in time."""
    return LockTimeout(
        f"{operation}: within {timeout} s no value of mutex {mutex.name!r} was committed for which the predicate is "
        "true",
        name=mutex.name,
        timeout=timeout,
    )


def _await(mutex: Mutex[T], predicate: Callable[[T], object], deadline: Deadline, operation: str) -> T:
    """Wait until the predicate holds for the committed T, and return that. Takes no lock."""
    wait: Wait | None = None
    try:
        while True:
            known = commits(mutex)
            value = mutex.peek()
            if predicate(value):
                return value
            must_not_hold(mutex, operation)
            nap = deadline.nap()
            if nap == 0:
                raise no_value(mutex, deadline.timeout, operation)
            if wait is None:
                wait = Wait(WAIT_VALUE)
            sleep_until_commit(mutex, known, nap, wait)
    finally:
        if wait is not None:
            wait.end()


def sleep_until_commit(mutex: Mutex[Any], known: int, nap: float, wait: Wait) -> None:
    """Sleep until there is another commit than the one that is known; to be seen by others once that takes a while."""
    shown = wait.waited >= SHOWN_AFTER
    if shown:
        wait.show((mutex,))
    ticket = watch(mutex, ON_COMMIT, known)
    if commits(mutex) == known:
        sleep_until_told(mutex, ticket, nap if shown else min(nap, SHOWN_AFTER))
        if shown:
            finish_for_the_dead(mutex)


def _locked(mutex: Mutex[T], predicate: Callable[[T], object], deadline: Deadline, operation: str) -> Guard[T]:
    """As :func:`lock_when`, with a deadline that runs already."""
    while True:
        _await(mutex, predicate, deadline, operation)
        try:
            guard = mutex.lock(deadline.left())
        except LockTimeout as error:
            raise LockTimeout(
                f"{operation}: the value was committed, but the lock was not acquired within {deadline.timeout} s "
                f"({error})",
                **{**error.facts, "timeout": deadline.timeout},
            ) from None
        try:
            if predicate(mutex._committed()):
                return guard
        except BaseException:
            give_back(guard)
            raise
        give_back(guard)
        if deadline.nap() == 0:
            raise no_value(mutex, deadline.timeout, operation)


def give_back(guard: Guard[Any]) -> None:
    """Release a guard and commit nothing, at whatever IRQL."""
    guard.__exit__(Exception, None, None)


def finish_for_the_dead(mutex: Mutex[Any]) -> None:
    """Have a commit finished that a killed holder had decided upon, with others, and was about to make.

    Whoever locks next does that, but all others may be waiting for that very commit. Who locks after this is not told
    of the death any more.
    """
    if left_by_the_dead(mutex):
        guard = mutex.try_lock()
        if guard is not None:
            give_back(guard)


def lock_when(mutex: Mutex[T], predicate: Callable[[T], object], timeout: float | None) -> Guard[T]:
    """See :meth:`wdkmutex_shm.KMutex.lock_when`."""
    must_not_hold(mutex, "lock_when")
    return _locked(mutex, predicate, Deadline(timeout), "lock_when")


def wait_for(mutex: Mutex[T], predicate: Callable[[T], object], timeout: float | None) -> T:
    """See :meth:`wdkmutex_shm.KMutex.wait_for`."""
    return _await(mutex, predicate, Deadline(timeout), "wait_for")


def wait_in_guard(guard: Guard[T], predicate: Callable[[T], object], timeout: float | None) -> None:
    """See :meth:`wdkmutex_shm.Guard.wait_for`."""
    mutex: Mutex[T] = guard.mutex
    deadline = Deadline(timeout)
    guard.commit()
    if predicate(mutex._committed()):
        return
    guard._let_go()
    try:
        again = _locked(mutex, predicate, deadline, "wait_for")
    except MutexDestroyed:
        raise
    except BaseException:
        # As threading.Condition.wait(): it neither returns nor raises without the lock. A second Ctrl-C gives up. Where
        # it closed a circle, another thread in it is told as well, or the lock would never be had.
        while guard.released:
            _core.taking_back(True)
            try:
                guard._adopt(mutex.lock())
            except DeadlockError:  # of a wait of a signal handler's, or because such a wait had the note above
                continue
            finally:
                _core.taking_back(False)
        raise
    guard._adopt(again)


def newest(mutex: Mutex[T]) -> tuple[int, T]:
    """Return the committed T, and the commit word that it came with.

    While others commit without end that may be an older word than T's; T then comes once more.
    """
    for _ in range(_STEADY_LOOKS):
        known = commits(mutex)
        value = mutex.peek()
        if commits(mutex) == known:
            break
    return known, value
