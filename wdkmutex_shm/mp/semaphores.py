"""Semaphore and BoundedSemaphore, which take back what a dead process had acquired.

A semaphore is used in two ways. As a *resource*, whoever acquires it releases it; a process that dies in between must
give back what it has. As a *signal*, one process releases what another acquires (a semaphore that begins with 0, or one
that counts the free places of a queue); what a dead process had acquired is then used up, and nothing may be given
back. A semaphore is taken for a resource until the first release by a process that has acquired nothing: from then on
it is a signal. If something was given back before that turned out, the release is taken for the dead process's: it is
not counted twice, and proves nothing.

The state: [value, given back, whether it is a resource, process, how many it has, process, how many it has, ...].
"""

from __future__ import annotations

from multiprocessing import synchronize
from operator import index
from typing import Any

from .. import KMutex
from ..core._core import CriticalSection, as_blocking
from .process_key import is_dead, me
from .shared_state import Attempt, PackedState, Shared, State, WaitLine, must_not_block, waits

__all__ = ["BoundedSemaphore", "Semaphore"]

SEM_VALUE_MAX = 2**31 - 1  # as multiprocessing has it

_VALUE, _GIVEN, _RESOURCE, _HOLDERS = range(4)


def _cell(first: State | KMutex[bytes]) -> PackedState:
    return PackedState("iib", "qi", first)


def _place_of(state: State, party: int) -> int | None:
    """Where in the state a process stands."""
    for at in range(_HOLDERS, len(state), 2):
        if state[at] == party:
            return at
    return None


def _take(state: State) -> bool | None:
    if state[_VALUE] <= 0:
        return None
    state[_VALUE] -= 1
    if state[_RESOURCE]:
        party = me()
        at = _place_of(state, party)
        if at is None:
            state += (party, 1)
        else:
            state[at + 1] += 1
    return True


def _dead(state: State) -> set[int]:
    """Who died with something."""
    return {party for party in state[_HOLDERS::2] if is_dead(party)}


def _give_back(state: State, dead: set[int]) -> bool | None:
    """Take back what the dead have."""
    alive: State = []
    back = 0
    for at in range(_HOLDERS, len(state), 2):
        if state[at] in dead:
            back += state[at + 1]
        else:
            alive += state[at : at + 2]
    if not back:
        return None
    state[_VALUE] += back
    state[_GIVEN] += back
    state[_HOLDERS:] = alive
    return True


def _merge(state: State, dead: set[int]) -> bool | None:
    """Write down as one what several of the dead have: nobody may need it for long."""
    places = [at for at in range(_HOLDERS, len(state), 2) if state[at] in dead]
    for at in reversed(places[1:]):
        state[places[0] + 1] += state[at + 1]
        del state[at : at + 2]
    return True if len(places) > 1 else None


class _Attempt(Attempt):
    def __init__(self, semaphore: Semaphore) -> None:
        self._cell = semaphore._cell
        self._taken: list[bool] = []

    @property
    def had(self) -> bool:  # type: ignore[override]
        return bool(self._taken)

    def take(self, first: bool) -> bool | None:
        return self._cell.change(_take, self._taken)

    def give_back(self) -> None:
        """Who acquires it does so."""

    def mend(self) -> None:
        # Who is dead is asked once, which takes long: others who commit meanwhile must not keep this from being done.
        dead = _dead(self._cell.peek())
        if dead:
            self._cell.change(lambda state: _give_back(state, dead))


class Semaphore(Shared, synchronize.Semaphore):
    """A semaphore; see the module for what becomes of a dead process's part.

    Acquiring without ``block``, and releasing, work up to IRQL DISPATCH; acquiring with ``block`` up to APC.
    """

    def __init__(self, value: int = 1, *, ctx: Any) -> None:
        self._begin(value, SEM_VALUE_MAX)

    def _begin(self, value: int, most: int) -> None:
        value = index(value)
        if not 0 <= value <= SEM_VALUE_MAX:
            raise ValueError(f"the initial value of a semaphore is 0 to {SEM_VALUE_MAX}, not {value}")
        self._attach(_cell([value, 0, 1]).mutex, CriticalSection(), most)

    def _attach(self, mutex: KMutex[bytes], line: CriticalSection, most: int) -> None:
        self._cell = _cell(mutex)
        self._line = WaitLine(line)
        self.maxvalue = most
        self._taker = 0  # the process that has acquired it with this object

    def _shared(self) -> tuple[Any, ...]:
        return self._cell.mutex, self._line.section, self.maxvalue

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take one. Returns False when there was none in time.

        Args:
            timeout: seconds to wait; None for no limit, a negative one is as 0. Without meaning if not ``block``.

        Raises:
            IrqlTooHigh: it may have to wait, and the thread must not block. KeyboardInterrupt while waiting.
        """
        block = waits(as_blocking(block), timeout)
        if block:
            must_not_block("acquire")
        attempt = _Attempt(self)
        if self._taker != me():
            # Who comes merges who has gone: else the state would grow with each process.
            dead = _dead(self._cell.peek())
            if len(dead) > 1:
                self._cell.change(lambda state: _merge(state, dead))
            self._taker = me()
        try:
            if attempt.take(False):
                return True
            if not block:
                attempt.mend()
                return bool(attempt.take(False))
            return self._line.wait(self._cell.mutex, attempt, timeout)
        except BaseException:
            if attempt.had:
                self.release()
            raise

    def release(self) -> None:
        """Put one back.

        Raises:
            ValueError: the semaphore is bounded and at its bound.
        """
        self._cell.change(self._put)

    def _put(self, state: State) -> bool:
        at = _place_of(state, me()) if state[_RESOURCE] else None
        if at is not None:
            state[at + 1] -= 1
            if not state[at + 1]:
                del state[at : at + 2]
        elif state[_GIVEN]:
            # That one was given back when the process died that this one stands in for: it may be a child of it, which
            # goes on in the belief that it has what its parent had.
            state[_GIVEN] -= 1
            return True
        else:
            state[_RESOURCE] = 0
            del state[_HOLDERS:]
        if state[_VALUE] >= self.maxvalue:
            raise ValueError("semaphore or lock released too many times")
        state[_VALUE] += 1
        return True

    def get_value(self) -> int:
        """How many can be taken now. What the dead have counts where there is nothing else. Never blocks."""
        state = self._cell.peek()
        if not state[_VALUE] and len(state) > _HOLDERS:
            _give_back(state, _dead(state))
        return int(state[_VALUE])

    def locked(self) -> bool:
        """Whether there is none. Never blocks."""
        return self.get_value() == 0

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self.get_value()})>"

    # What multiprocessing's own modules, and others, look at.

    @property
    def _semlock(self) -> Semaphore:
        return self

    def _get_value(self) -> int:
        return self.get_value()

    def _is_zero(self) -> bool:
        return self.get_value() == 0


class BoundedSemaphore(Semaphore, synchronize.BoundedSemaphore):
    """A semaphore that raises ValueError when it is released more often than it was acquired."""

    def __init__(self, value: int = 1, *, ctx: Any) -> None:
        self._begin(value, value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self.get_value()}, maxvalue={self.maxvalue})>"
