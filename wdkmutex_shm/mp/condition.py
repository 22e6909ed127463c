"""Condition: waiters are written down, so that a notification cannot be lost with one.

The state is a list of three items for each waiter: its number, its process, and whether it was notified. A waiter's
entry stays until it has the lock again. So one that is killed before, notified or not, is still listed when the next
one looks, and its notification is handed on.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from multiprocessing import synchronize
from typing import Any, TypeVar

from .. import KMutex
from ..errors import DriverMutexError
from .process_key import is_dead, me
from .shared_state import PackedState, Shared, State, deadline_of, left, must_not_block, wait_for_change

__all__ = ["Condition"]

T = TypeVar("T")

_NUMBER, _PARTY, _NOTIFIED = range(3)
_WIDTH = 3
_LOOK = 0.25  # seconds between two looks for waiters that died with a notification

_TRIES = range(8)  # so often what must be done is tried, if it is not done because a signal handler raises

_numbers = itertools.count(1)


def _cell(first: State | KMutex[bytes]) -> PackedState:
    return PackedState("", "Iqb", first)


def _entries(state: State) -> range:
    return range(0, len(state), _WIDTH)


def _place_of(state: State, number: int, party: int) -> int | None:
    for at in _entries(state):
        if state[at + _NUMBER] == number and state[at + _PARTY] == party:
            return at
    return None


def _bury(state: State) -> bool | None:
    """Remove the dead, and hand on their notifications. None if nobody is dead."""
    before, owed = len(state), 0
    for at in reversed(_entries(state)):
        if is_dead(state[at + _PARTY]):
            owed += state[at + _NOTIFIED]
            del state[at : at + _WIDTH]
    _notify(state, owed)
    return True if len(state) != before else None


def _notify(state: State, count: int) -> int:
    """Notify the first ``count`` that are not yet. Returns how many there were."""
    done = 0
    for at in _entries(state):
        if done >= count:
            break
        if not state[at + _NOTIFIED]:
            state[at + _NOTIFIED] = 1
            done += 1
    return done


class _Count:
    """A number that can be asked for as that of a semaphore."""

    def __init__(self, value: Callable[[], int]) -> None:
        self.get_value = self._get_value = value


class Condition(Shared, synchronize.Condition):
    """A condition variable.

    A notification reaches as many living waiters as it should: those that died are passed over, and one that a waiter
    dies with, before it has the lock again, is handed on to another within half a second.
    """

    def __init__(self, lock: Any = None, *, ctx: Any) -> None:
        self._attach(lock or ctx.RLock(), _cell([]).mutex)

    def _attach(self, lock: Any, mutex: KMutex[bytes]) -> None:
        self._lock = lock
        self._cell = _cell(mutex)
        self.acquire = lock.acquire  # type: ignore[method-assign]
        self.release = lock.release  # type: ignore[method-assign]

    def _shared(self) -> tuple[Any, ...]:
        return self._lock, self._cell.mutex

    def __enter__(self) -> bool:
        return bool(self._lock.__enter__())

    def __exit__(self, *error: Any) -> None:
        self._lock.__exit__(*error)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self._lock}, {len(self._cell.peek()) // _WIDTH})>"

    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait to be notified, and acquire the lock again. Returns whether it was notified.

        Args:
            timeout: seconds, or None.

        Raises:
            AssertionError: the calling thread does not hold the lock. IrqlTooHigh: the thread must not block.
            KeyboardInterrupt, or what a signal handler raises; the lock is held then.
        """
        if not self._lock._semlock._is_mine():
            raise AssertionError("must acquire() condition before using wait()")  # as multiprocessing; with -O as well
        must_not_block("wait")
        number, party = next(_numbers) & 0xFFFFFFFF, me()
        deadline = deadline_of(timeout)
        depth = self._lock._semlock._count()
        told = finished = False
        try:
            self._cell.change(lambda state: self._enter(state, number, party))
            self._let_go(depth)
            self._sleep(number, party, deadline)
            finished = True
        finally:
            # What a signal handler raises here is raised in the end: with the lock, and off the list.
            late: BaseException | None = None
            for _ in _TRIES:
                try:
                    if not self._lock._semlock._is_mine():
                        self._take_again(depth)
                    break
                except BaseException as error:
                    late = late or error
                    if isinstance(error, DriverMutexError):
                        break
            # With the lock, as late as can be: until here a notification can be handed on.
            for _ in _TRIES:
                try:
                    passed = finished and late is None
                    told = self._cell.change(lambda state: self._leave(state, number, party, passed)) == 2  # noqa: B023
                    break
                except BaseException as error:
                    late = late or error
            if late is not None:
                raise late
        return told

    def _sleep(self, number: int, party: int, deadline: float | None) -> None:
        def look() -> bool | None:
            state = self._cell.peek()
            at = _place_of(state, number, party)
            return True if at is None or state[at + _NOTIFIED] else None

        while not wait_for_change(self._cell.mutex, look, deadline, _LOOK):
            if left(deadline, 1.0) <= 0:
                return
            self._cell.change(_bury)

    @staticmethod
    def _enter(state: State, number: int, party: int) -> bool:
        state += (number, party, 0)
        return True

    @staticmethod
    def _leave(state: State, number: int, party: int, finished: bool) -> int | None:
        """Strike a waiter off. Returns 2 if it was notified, else 1. One that leaves by an exception hands that on."""
        at = _place_of(state, number, party)
        if at is None:
            return None
        told: int = state[at + _NOTIFIED]
        del state[at : at + _WIDTH]
        if told and not finished:
            _notify(state, 1)
        return 1 + told

    def _let_go(self, depth: int) -> None:
        if hasattr(self._lock, "_release_save"):
            self._lock._release_save()
            return
        for _ in range(depth):  # a lock of multiprocessing itself
            self._lock.release()

    def _take_again(self, depth: int) -> None:
        if hasattr(self._lock, "_acquire_restore"):
            self._lock._acquire_restore(depth)
            return
        for _ in range(depth):
            self._lock.acquire()

    def notify(self, n: int = 1) -> None:
        """Wake ``n`` waiters, if there are so many. The dead do not count.

        Raises:
            AssertionError: the calling thread does not hold the lock.
        """
        if not self._lock._semlock._is_mine():
            raise AssertionError("lock is not owned")

        def tell(state: State) -> int | None:
            buried = _bury(state)
            return _notify(state, n) or buried

        self._cell.change(tell)

    def notify_all(self) -> None:
        """Wake all waiters. Errors as :meth:`notify`."""
        self.notify(n=sys.maxsize)

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait until ``predicate()`` returns something true, and return that; what it returned last if time is up.

        Errors as :meth:`wait`.
        """
        result = predicate()
        deadline = deadline_of(timeout)
        while not result:
            seconds = None if deadline is None else deadline - time.monotonic()
            if seconds is not None and seconds <= 0:
                break
            self.wait(seconds)
            result = predicate()
        return result

    # What multiprocessing's own condition shows of itself.

    @property
    def _sleeping_count(self) -> _Count:
        return _Count(lambda: len(self._cell.peek()) // _WIDTH)

    @property
    def _woken_count(self) -> _Count:
        return _Count(lambda: 0)

    @property
    def _wait_semaphore(self) -> _Count:
        return _Count(lambda: sum(self._cell.peek()[_NOTIFIED::_WIDTH]))
