"""Lock and RLock.

=====================  ====================================  ===========================================
operation              Lock                                  RLock
=====================  ====================================  ===========================================
acquire, free          acquired                              acquired
acquire, mine          waits (False if not ``block``)        acquired once more
acquire, another's     waits                                 waits
acquire, promised      waits (False if not ``block``)        the same; for at most 4 ms after its release
acquire, owner died    acquired, within 0.1 s of its death   acquired at once
release, free          ValueError                            AssertionError
release, another's     released: any process or thread may   AssertionError
forked child           the parent holds it; may release it   the parent holds it; AssertionError
the same, parent dead  NotOwned, once another could have it  AssertionError
thread ended holding   still held                            acquired by the next at once
process ended holding  as owner died                         as owner died
event loop             acquire(False) works; acquire() raises IrqlTooHigh, free or not; an RLock is owned by the task
=====================  ====================================  ===========================================

A Lock is a number in shared memory, 0 or the process that acquired it: a robust mutex would have to be released by the
thread that locked it, and a Lock of multiprocessing may be released by anybody. One more bit of it says that the first
of those who wait has waited for more than a millisecond: the lock is promised to it, nobody overtakes it. A promised
lock that is free says since when it is, so that it is not kept for one that does not come, because it is stopped. And
what a dead process held is marked by whoever finds that, so that whoever acquires it next is told.

An RLock (:mod:`wdkmutex_shm.mp.rlock`) is owned by a thread, as a robust mutex is, and so is one.
"""

from __future__ import annotations

import time
from multiprocessing import synchronize
from threading import get_ident
from typing import Any

from .. import KMutex
from ..core import _core
from ..core._core import CriticalSection, as_blocking, exchange_if
from ..errors import DeadlockError, DriverMutexError
from .process_key import is_dead, lost, me, my_name
from .shared_state import Attempt, Shared, WaitLine, waits

__all__ = ["Lock"]

# The word: 0, the process that holds it, or _FREE. Beside a process, _PROMISED; beside _FREE what follows.
_FREE = 1 << 60  # above the bits of a process
_ORPHANED = 1 << 61  # its last holder died, and the next is not told yet
_PROMISED = 1 << 62  # it is for the first in line, see _TIME
_TIME = _FREE - 1  # the bits that say when a promised lock became free, in microseconds
_PROMISE = 4_000  # so many microseconds after that nobody else may take it


def _is_free(word: int) -> bool:
    return word == 0 or bool(word & _FREE)


def _now() -> int:
    """Microseconds of the clock that all processes share."""
    return time.monotonic_ns() // 1000


def _is_promised(word: int) -> bool:
    """Whether a free lock is for the first in line alone."""
    return bool(word & _PROMISED) and 0 <= _now() - (word & _TIME) < _PROMISE


def _released(word: int, dead: int = 0) -> int:
    """The word of a lock that was held and becomes free; ``dead`` is _ORPHANED if its holder died."""
    if word & _PROMISED:
        return _FREE | _PROMISED | dead | _now()
    return _FREE | dead if dead else 0


class _Attempt(Attempt):
    """Waiting for a Lock. ``dead``: whether it came from a dead process."""

    def __init__(self, word: KMutex[int], party: int) -> None:
        self._word = word
        self._party = party
        self._free = 0
        self._found: list[int] = []

    @property
    def had(self) -> bool:  # type: ignore[override]
        return self._free in self._found

    @property
    def dead(self) -> bool:
        return self.had and bool(self._free & _ORPHANED)

    def take(self, first: bool) -> bool | None:
        free = self._word.peek()
        while _is_free(free) and (first or not _is_promised(free)):
            self._found.clear()
            self._free = free
            # One call, in which no signal handler runs: it is had and known to be, or not.
            self._found.extend(map(exchange_if, (self._word,), (free,), (self._party,), ("acquire",)))
            if self.had:
                return True
            free = self._found[0]
        return None

    def give_back(self) -> None:
        dead = self._free & _ORPHANED
        found = self._word.peek()
        while found & ~_PROMISED == self._party:
            expected = found
            found = exchange_if(self._word, expected, _released(expected, dead), "release")
            if found == expected:
                break
        self._found.clear()

    def mend(self) -> None:
        found = self._word.peek()
        if not _is_free(found) and is_dead(found & ~_PROMISED):
            exchange_if(self._word, found, _released(found, _ORPHANED), "acquire")

    def insist(self) -> None:
        self._promise(_PROMISED)

    def relent(self) -> None:
        self._promise(0)

    def _promise(self, promise: int) -> None:
        """Promise a lock that is held, by whomever, or take the promise back."""
        found = self._word.peek()
        while found & _PROMISED != promise and not (promise and _is_free(found)):
            expected = found
            wanted = expected & ~_PROMISED | promise
            if _is_free(expected):
                wanted = _FREE | _ORPHANED if expected & _ORPHANED else 0
            found = exchange_if(self._word, expected, wanted, "acquire")
            if found == expected:
                return


class _Restore(_Attempt):
    """Taking back a Lock: it is kept, whatever a signal handler raises."""

    def give_back(self) -> None:
        pass


class Lock(Shared, synchronize.Lock):
    """A lock that is not recursive and that anybody may release. What a dead process held is released.

    Attributes:
        abandoned: whether the last acquisition by this process was of a lock whose owner had died.
    """

    abandoned = False

    def __init__(self, *, ctx: Any) -> None:
        self._attach(KMutex(0), CriticalSection())

    def _attach(self, word: KMutex[int], line: CriticalSection) -> None:
        self._word = word
        self._line = WaitLine(line)
        self._thread = self._party = 0  # this process's thread that acquired it last

    def _shared(self) -> tuple[Any, ...]:
        return self._word, self._line.section

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Acquire it. Returns False when it was not free in time.

        Args:
            timeout: seconds to wait; None for no limit, a negative one is as 0. Without meaning if not ``block``.

        Raises:
            IrqlTooHigh: it may have to wait, and the thread must not block. KeyboardInterrupt while waiting.
        """
        block = waits(as_blocking(block), timeout)
        party, thread = me(), get_ident()
        done: list[bool] = []
        try:
            found = exchange_if(self._word, 0, party, "acquire", block, done)
        except BaseException:
            if done:  # a signal handler raises
                _Attempt(self._word, party).give_back()
            raise
        if found == 0:
            self.abandoned = False
        elif not self._take(found, party, block, timeout):
            return False
        self._thread, self._party = thread, party
        return True

    def _take(self, found: int, party: int, block: bool, timeout: float | None) -> bool:
        """Acquire it, after an attempt that found it not free, promised, or left by the dead."""
        attempt = _Attempt(self._word, party)
        try:
            if not block and not _is_free(found):
                attempt.mend()
            had = attempt.take(False) or self._take_promised(attempt)
            if not had and not (block and self._line.wait(self._word, attempt, timeout)):
                return False
            self.abandoned = attempt.dead
            return True
        except BaseException:
            if attempt.had:
                attempt.give_back()
            raise

    def _take_promised(self, attempt: _Attempt) -> bool:
        """Take what was promised to the first in line, if there is none: it died."""
        if not _is_free(self._word.peek()):
            return False
        inside: list[bool] = []
        try:
            inside.extend(filter(None, map(self._line.section.acquire, (False,))))  # as in WaitLine
            return bool(inside and attempt.take(True))
        finally:
            if inside:
                self._line.section.release()

    def release(self) -> None:
        """Release it, whoever acquired it.

        Raises:
            ValueError: it is free. NotOwned: who held it and forked this process died: others could have it.
        """
        owner = self._party
        thread, self._thread = self._thread, 0
        found = exchange_if(self._word, owner, 0, "release") if owner else self._word.peek()
        if owner and found == owner:
            return
        if thread and found & ~_PROMISED != owner and is_dead(owner):  # never of this process itself
            self._thread = thread  # it goes on to believe that it holds the lock, and is told each time
            raise lost(owner, 0 if _is_free(found) else found & ~_PROMISED)
        while not _is_free(found):
            expected = found
            found = exchange_if(self._word, expected, _released(expected), "release")
            if found == expected:
                return
        raise ValueError("semaphore or lock released too many times")

    def locked(self) -> bool:
        """Whether it is held, by a process that lives. Never blocks."""
        return self._owner() != 0

    def _owner(self) -> int:
        word = self._word.peek()
        owner = 0 if _is_free(word) else word & ~_PROMISED
        return 0 if owner and is_dead(owner) else owner

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        owner = self._owner()
        if owner == 0:
            name = "None"
        elif owner != me():
            name = "SomeOtherProcess"
        elif self._is_mine():
            name = my_name()
        else:
            name = "SomeOtherThread"
        return f"<{type(self).__name__}(owner={name})>"

    # What multiprocessing's own modules, and others, look at.

    @property
    def _semlock(self) -> Lock:
        return self

    def _is_mine(self) -> bool:
        party = me()
        return self._thread == get_ident() and self._party == party and self._owner() == party

    def _count(self) -> int:
        return int(self._owner() == me())

    def _get_value(self) -> int:
        return int(self._owner() == 0)

    def _is_zero(self) -> bool:
        return self._owner() != 0

    def _release_save(self) -> int:
        self.release()
        return 1

    def _acquire_restore(self, _depth: int) -> None:
        # As that of RLock: a Condition must not go on without it. What a handler raises is raised once it is had, and
        # of a deadlock another thread in it is told. Only where there is no lock any more this says so.
        late: BaseException | None = None
        attempt = _Restore(self._word, me())
        while not attempt.had:
            try:
                _core.taking_back(True)
                if not attempt.take(False):
                    self._line.wait(self._word, attempt, None)
            except DeadlockError:
                continue
            except DriverMutexError:
                raise
            except BaseException as error:
                late = late or error
            finally:
                _core.taking_back(False)
        self.abandoned = attempt.dead
        self._thread, self._party = get_ident(), me()
        if late is not None:
            raise late
