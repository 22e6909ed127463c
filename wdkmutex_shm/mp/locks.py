"""Lock and RLock.

=====================  ====================================  ===========================================
operation              Lock                                  RLock
=====================  ====================================  ===========================================
acquire, free          acquired                              acquired
acquire, mine          waits (False if not ``block``)        acquired once more
acquire, another's     waits                                 waits
acquire, promised      waits (False if not ``block``)        the same, for at most 4 ms
acquire, owner died    acquired, within 0.1 s of its death   acquired at once
release, free          ValueError                            AssertionError
release, another's     released: any process or thread may   AssertionError
forked child           the parent holds it; may release it   the parent holds it
thread ended holding   still held                            acquired by the next at once
process ended holding  as owner died                         as owner died
event loop             acquire(False) works; acquire() raises IrqlTooHigh, free or not
=====================  ====================================  ===========================================

A Lock is a number in shared memory, 0 or the process that acquired it: a robust mutex would have to be released by the
thread that locked it, and a Lock of multiprocessing may be released by anybody. One more bit of it says that the first
of those who wait has waited for more than a millisecond: the lock is promised to it, so nobody overtakes it any more.
An RLock is owned by a thread, as a robust mutex is, and so is one.
"""

from __future__ import annotations

import threading
from multiprocessing import process
from threading import get_ident
from typing import Any

from .. import KMutex, _board
from .._section import CriticalSection
from .._swap import exchange_if
from ..errors import DeadlockError, DriverMutexError, NotOwned
from .cells import Attempt, Line, Shared
from .parties import is_dead, me

__all__ = ["Lock", "RLock"]

_PROMISED = 1 << 62  # above the bits of a process


def _my_name() -> str:
    name = process.current_process().name
    thread = threading.current_thread().name
    return name if thread == "MainThread" else f"{name}|{thread}"


class _Attempt(Attempt):
    """Waiting for a Lock. ``dead``: whether it came from a dead process."""

    def __init__(self, word: KMutex[int], party: int) -> None:
        self._word = word
        self._party = party
        self._free = 0
        self._found: list[int] = []
        self.dead = False

    @property
    def had(self) -> bool:  # type: ignore[override]
        return self._free in self._found

    def take(self, first: bool) -> bool | None:
        for free in (0, _PROMISED) if first else (0,):
            self._found.clear()
            self._free = free
            # One call, in which no signal handler runs: it is had and known to be, or not.
            self._found.extend(map(exchange_if, (self._word,), (free,), (self._party,), ("acquire",)))
            if self.had:
                return True
        return None

    def give_back(self) -> None:
        found = self._word.peek()
        while found & ~_PROMISED == self._party:
            expected = found
            found = exchange_if(self._word, expected, expected & _PROMISED, "release")
            if found == expected:
                return

    def mend(self, first: bool) -> None:
        found = self._word.peek()
        if found == _PROMISED and not first:
            exchange_if(self._word, found, 0, "acquire")  # the first in line does not come: it is stopped
        owner = found & ~_PROMISED
        if owner and is_dead(owner):
            self.dead |= exchange_if(self._word, found, found & _PROMISED, "acquire") == found

    def insist(self) -> None:
        self._promise(_PROMISED)

    def relent(self) -> None:
        self._promise(0)

    def _promise(self, promise: int) -> None:
        """Promise a lock that is not free, or take the promise back; whoever holds it."""
        found = self._word.peek()
        while found and found & _PROMISED != promise:
            expected = found
            found = exchange_if(self._word, expected, expected & ~_PROMISED | promise, "acquire")
            if found == expected:
                return


class _Restore(_Attempt):
    """Taking back a Lock: it is kept, whatever a signal handler raises."""

    def give_back(self) -> None:
        pass


class Lock(Shared):
    """A lock that is not recursive and that anybody may release. What a dead process held is released.

    Attributes:
        abandoned: whether the last acquisition by this process was of a lock whose owner had died.
    """

    abandoned = False

    def __init__(self, *, ctx: Any) -> None:
        self._attach(KMutex(0), CriticalSection())

    def _attach(self, word: KMutex[int], line: CriticalSection) -> None:
        self._word = word
        self._line = Line(line)
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
        party, thread = me(), get_ident()
        found = exchange_if(self._word, 0, party, "acquire", block)
        if found == 0 or (found == _PROMISED and self._take_promised(party)):
            self.abandoned = False
        elif not (self._wait(party, timeout) if block else self._try_dead(party)):
            return False
        self._thread, self._party = thread, party
        return True

    def _try_dead(self, party: int) -> bool:
        """Take it from a dead process, if nobody waits for it."""
        attempt = _Attempt(self._word, party)
        attempt.mend(True)
        self.abandoned = bool(attempt.dead and attempt.take(False))
        return self.abandoned

    def _wait(self, party: int, timeout: float | None) -> bool:
        attempt = _Attempt(self._word, party)
        if not self._line.wait(self._word, attempt, timeout):
            return False
        self.abandoned = attempt.dead
        return True

    def _take_promised(self, party: int) -> bool:
        """Take what was promised to the first in line, if there is none: it died."""
        if not self._line.section.acquire(False):
            return False
        try:
            return exchange_if(self._word, _PROMISED, party, "acquire") == _PROMISED
        finally:
            self._line.section.release()

    def release(self) -> None:
        """Release it, whoever acquired it.

        Raises:
            ValueError: it is free.
        """
        owner = self._party
        self._thread = 0
        found = exchange_if(self._word, owner, 0, "release") if owner else self._word.peek()
        while found & ~_PROMISED and found != owner:
            owner = found
            found = exchange_if(self._word, owner, owner & _PROMISED, "release")
        if not found & ~_PROMISED:
            raise ValueError("semaphore or lock released too many times")

    def locked(self) -> bool:
        """Whether it is held. Never blocks."""
        return self._owner() != 0

    def _owner(self) -> int:
        return self._word.peek() & ~_PROMISED

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
            name = _my_name()
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
                _board.taking_back(True)
                if not attempt.take(False):
                    self._line.wait(self._word, attempt, None)
            except DeadlockError:
                continue
            except DriverMutexError:
                raise
            except BaseException as error:
                late = late or error
            finally:
                _board.taking_back(False)
        self.abandoned = attempt.dead
        self._thread, self._party = get_ident(), me()
        if late is not None:
            raise late


class RLock(Shared):
    """A recursive lock, owned by a thread. What a dead process or thread held is released."""

    def __init__(self, *, ctx: Any) -> None:
        self._attach(CriticalSection())

    def _attach(self, section: CriticalSection) -> None:
        self._section = section
        self._release_save = section._release_save
        self._acquire_restore = section._acquire_restore
        self._is_mine = section._is_owned

    def _shared(self) -> tuple[Any, ...]:
        return (self._section,)

    @property
    def abandoned(self) -> bool:
        """Whether the owner before the calling thread's present hold died."""
        return self._section.abandoned

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Acquire it once more. Returns False when it was not free in time.

        Args and errors as those of :meth:`Lock.acquire`.
        """
        if not block:
            return self._section.acquire(False)
        if timeout is not None and timeout < 0:
            timeout = 0
        return self._section.acquire(True, timeout)

    def release(self) -> None:
        """Release it once.

        Raises:
            AssertionError: the calling thread does not own it.
        """
        try:
            self._section.leave()
        except NotOwned:
            raise AssertionError("attempt to release recursive lock not owned by thread") from None

    def locked(self) -> bool:
        """Whether any thread of any process owns it. Never blocks."""
        return self._section.locked()

    def __enter__(self) -> bool:
        return self._section.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        owner = self._section.owner
        name: str
        count: int | str
        if self._is_mine():
            name, count = _my_name(), self._section._recursion_count()
        elif owner is None or not owner.alive:
            name, count = "None", 0
        else:
            name, count = (
                "SomeOtherThread" if owner.pid == process.current_process().pid else "SomeOtherProcess",
                "nonzero",
            )
        return f"<{type(self).__name__}({name}, {count})>"

    @property
    def _semlock(self) -> RLock:
        return self

    def _count(self) -> int:
        return self._section._recursion_count()

    def _get_value(self) -> int:
        return int(not self.locked())

    def _is_zero(self) -> bool:
        return self.locked()
