"""Shared state that is changed as a whole, and waited for.

The state of each type here is the T of one mutex. A change reads it, computes the next one, and commits that if nobody
committed meanwhile (`exchange.pxi`): there is no instant at which a killed process leaves half of a change,
or a lock that others wait for.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from multiprocessing import context
from threading import TIMEOUT_MAX
from typing import Any, TypeVar

from .. import KMutex
from ..core import _core, irql_advice
from ..core._core import CriticalSection, current_level, raised_level
from ..core.irql import Irql
from ..errors import IrqlTooHigh

__all__ = [
    "PATIENCE",
    "Attempt",
    "PackedState",
    "SLICE",
    "WaitLine",
    "Shared",
    "State",
    "changed",
    "deadline_of",
    "left",
    "must_not_block",
    "wait_for_change",
    "waits",
]

#: Seconds between two looks whether a process died that is waited for: nobody tells of a death.
SLICE = 0.05

#: Seconds that the first in line leaves it to chance who comes next.
PATIENCE = 0.001

State = list[Any]
_FORMATS = 8  # entries up to which formats are kept
_APC = int(Irql.APC)

R = TypeVar("R")


class Shared:
    """Base of what is handed over to children only while they are started, as all of multiprocessing's types are.

    Pickling gives what ``_shared()`` returns, unpickling hands it to ``_attach()``.
    """

    def _shared(self) -> tuple[Any, ...]:
        raise NotImplementedError

    def _attach(self, *shared: Any) -> None:
        raise NotImplementedError

    def __getstate__(self) -> tuple[Any, ...]:
        context.assert_spawning(self)
        return self._shared()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._attach(*state)


def deadline_of(timeout: float | None) -> float | None:
    """Return when a timeout of so many seconds is over; a negative one is as 0, None and centuries are never."""
    return None if timeout is None or timeout > TIMEOUT_MAX else time.monotonic() + max(0.0, float(timeout))


def left(deadline: float | None, most: float) -> float:
    """Return the seconds until the deadline, ``most`` at most."""
    return most if deadline is None else min(most, deadline - time.monotonic())


def changed(cell: KMutex[State], change: Callable[[State], R | None]) -> R | None:
    """Let ``change`` alter a copy of the state in place and commit it; again, if somebody else was faster.

    Returns:
        What ``change`` returned. If that is None, nothing was committed.
    """
    while True:
        commit = _core.commits(cell)
        state = cell.peek()
        result = change(state)
        if result is None or _core.commit_if(cell, commit, state):
            return result


def wait_for_change(cell: KMutex[Any], look: Callable[[], R | None], deadline: float | None, most: float) -> R | None:
    """Look, sleep until something is committed, and look again; for at most ``most`` seconds, or until the deadline.

    Returns:
        What ``look`` returned, once that is not None; None when the time was up.
    """
    until = time.monotonic() + left(deadline, most)
    while True:
        ticket = _core.watch(cell, _core.ON_COMMIT, _core.commits(cell))
        result = look()
        if result is not None:
            return result
        seconds = until - time.monotonic()
        if seconds <= 0:
            return None
        _core.sleep_until_told(cell, ticket, seconds)


class PackedState:
    """A list of numbers as the T of a mutex: some at its head, then a few for each entry.

    They are packed into bytes, which are read and committed in less time than a list is.

    Args:
        head, entry: formats of the numbers at the head and of one entry, a letter of struct each.
        first: the numbers to begin with, or the mutex of a cell that exists.
    """

    __slots__ = ("_each", "_entry", "_formats", "_head", "_heads", "mutex")

    def __init__(self, head: str, entry: str, first: State | KMutex[bytes]) -> None:
        self._head = struct.calcsize("=" + head)
        self._entry = struct.calcsize("=" + entry)
        self._heads, self._each = len(head), len(entry)
        self._formats = [struct.Struct("=" + head + entry * count) for count in range(_FORMATS)]
        self.mutex = KMutex(self._pack(first)) if isinstance(first, list) else first

    def _format(self, entries: int) -> struct.Struct:
        if entries < _FORMATS:
            return self._formats[entries]
        first, second = (self._formats[count].format for count in (0, 1))
        return struct.Struct(first + second[len(first) :] * entries)

    def _pack(self, state: State) -> bytes:
        return self._format((len(state) - self._heads) // self._each).pack(*state)

    def peek(self) -> State:
        """The numbers as committed last. Never waits."""
        raw = self.mutex.peek()
        return [*self._format((len(raw) - self._head) // self._entry).unpack(raw)]

    def change(self, change: Callable[[State], R | None], done: list[bool] | None = None) -> R | None:
        """As :func:`changed`. ``done`` is not empty once it is committed, whatever a signal handler raises here."""
        while True:
            commit = _core.commits(self.mutex)
            state = self.peek()
            result = change(state)
            if result is None or self.commit_if(commit, state, done):
                return result

    def commit_if(self, commit: int, state: State, done: list[bool] | None = None) -> bool:
        """Commit a state, unless somebody did since the commit word was ``commit``. Returns whether it was done."""
        return _core.commit_if(self.mutex, commit, self._pack(state), done)


class Attempt:
    """What somebody in a :class:`WaitLine` waits for.

    Attributes:
        had: whether it was had.
    """

    had = False

    def take(self, first: bool) -> bool | None:
        """Try once. True when it was ``had``, else None. ``first``: whether the caller is the first in line."""
        raise NotImplementedError

    def give_back(self) -> None:
        """It was had, but the caller is never told: a signal handler raises."""
        raise NotImplementedError

    def mend(self) -> None:
        """Give back what the dead hold. Called once in a while."""

    def insist(self) -> None:
        """The first in line has waited for a millisecond."""

    def relent(self) -> None:
        """It goes away without."""


class WaitLine:
    """Who waits for a lock or a semaphore stands in this line; only the first in it watches the state.

    So a release wakes one process. A process that dies anywhere in the line holds up nobody: the line is a critical
    section. One that is stopped as the first holds up the others for a twentieth of a second at a time, no longer: they
    look for themselves then.
    """

    def __init__(self, section: CriticalSection | None = None) -> None:
        self.section = CriticalSection() if section is None else section

    def wait(self, cell: KMutex[Any], attempt: Attempt, timeout: float | None) -> bool:
        """Stand in line until the attempt succeeds. Returns False when the time was up.

        Args:
            timeout: seconds, or None.
        """
        try:
            return self._wait(cell, attempt, deadline_of(timeout))
        except BaseException:
            if attempt.had:
                attempt.give_back()
            raise

    def _wait(self, cell: KMutex[Any], attempt: Attempt, deadline: float | None) -> bool:
        inside: list[bool] = []
        try:
            while True:
                seconds = max(0.0, left(deadline, SLICE))
                # One call, in which no signal handler runs once it is inside.
                inside.extend(filter(None, map(self.section.acquire, (True,), (seconds,))))
                if inside:
                    return self._wait_first(cell, attempt, deadline)
                attempt.mend()
                if attempt.take(False):
                    return True
                if left(deadline, 1.0) <= 0:
                    return False
        finally:
            if inside:
                self.section.release()

    @staticmethod
    def _wait_first(cell: KMutex[Any], attempt: Attempt, deadline: float | None) -> bool:
        seconds = PATIENCE
        try:
            while left(deadline, 1.0) > 0:
                if wait_for_change(cell, lambda: attempt.take(True), deadline, seconds):
                    return True
                attempt.insist()
                attempt.mend()
                seconds = SLICE
            attempt.mend()
            return bool(attempt.take(True))
        finally:
            if not attempt.had:
                attempt.relent()


def waits(block: bool, timeout: float | None) -> bool:
    """Whether a call with these arguments may wait; where the timeout is not above 0 it does not."""
    positive = timeout is None or timeout > 0  # first: it refuses what is no number
    return bool(block) and positive


def must_not_block(operation: str) -> None:
    """Raise IrqlTooHigh if the calling thread must not block: it is above APC."""
    level = current_level()
    if level > _APC:
        in_loop = raised_level() < level
        where = "this thread runs an event loop" if in_loop else f"this thread is at IRQL {level}"
        raise IrqlTooHigh(
            f"{operation}: {where}, and may wait up to IRQL 1; "
            + irql_advice.out_of(operation, 0, level, _APC, in_loop),
            operation=operation,
            level=level,
            limit=_APC,
        )
