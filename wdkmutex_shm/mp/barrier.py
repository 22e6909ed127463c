"""Barrier: arrivals are written down, so that one that died is seen.

The state: [round, what it is in, [who arrived in this round, a process each], [rounds that were broken and reset]].
A round ends when all have arrived, or when it breaks. The broken ones are remembered for those who wake up late.
"""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import synchronize
from threading import BrokenBarrierError
from typing import Any

from .. import KMutex
from .process_key import is_dead, me
from .shared_state import Shared, State, changed, deadline_of, left, must_not_block, wait_for_change

__all__ = ["Barrier"]

_ROUND, _STATE, _ARRIVED, _BROKEN_ROUNDS = range(4)
_FILLING, _ACTING, _BROKEN = range(3)
_LOOK = 0.25  # seconds between two looks whether somebody died at the barrier
_KEPT = 32  # so many resets may pass before somebody wakes up who was there at the first


class Barrier(Shared, synchronize.Barrier):
    """A barrier, as ``threading.Barrier``.

    A process that dies while it waits at the barrier, or in its action, breaks it, as one does whose time is up: the
    others get BrokenBarrierError within half a second, not never. ``reset()`` mends it.
    """

    def __init__(
        self, parties: int, action: Callable[..., object] | None = None, timeout: float | None = None, *, ctx: Any
    ) -> None:
        if parties < 1:
            raise ValueError("parties must be > 0")
        self._attach(parties, action, timeout, KMutex([0, _FILLING, [], []]))

    def _attach(
        self, parties: int, action: Callable[..., object] | None, timeout: float | None, cell: KMutex[State]
    ) -> None:
        self._parties = parties
        self._action = action
        self._timeout = timeout
        self._cell = cell

    def _shared(self) -> tuple[Any, ...]:
        return self._parties, self._action, self._timeout, self._cell

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all parties have called this. Returns a number from 0 up to the parties, another one to each.

        Args:
            timeout: seconds; None: that of the barrier. Once all have come it is not counted.

        Raises:
            BrokenBarrierError: somebody's time was up, died, called ``abort()`` or ``reset()``, or the action failed.
            IrqlTooHigh: the thread must not block. KeyboardInterrupt; the barrier is broken then.
        """
        must_not_block("wait")
        deadline = deadline_of(self._timeout if timeout is None else timeout)
        tried: list[int] = []
        try:
            turn, place = self._arrive(tried, deadline)
            if place == self._parties - 1:
                self._act(turn)
            else:
                self._wait(turn, deadline)
        except BrokenBarrierError:
            raise
        except BaseException:
            if tried:
                self._break(tried[0])
            raise
        return place

    def _arrive(self, tried: list[int], deadline: float | None) -> tuple[int, int]:
        """Arrive in this round, or in the next one if the action is under way.

        ``tried``: the round in which it may have arrived, whatever a signal handler raises here.
        """

        def arrive(state: State) -> tuple[int, int] | None:
            tried.clear()
            if state[_STATE] == _BROKEN:
                raise BrokenBarrierError
            if state[_STATE] == _ACTING:
                return None
            tried.append(state[_ROUND])
            state[_ARRIVED].append(me())
            if len(state[_ARRIVED]) == self._parties:
                state[_STATE] = _ACTING
            return state[_ROUND], len(state[_ARRIVED]) - 1

        while True:
            came = wait_for_change(self._cell, lambda: changed(self._cell, arrive), deadline, _LOOK)
            if came is not None:
                return came
            self._look_for_dead()
            if left(deadline, 1.0) <= 0:
                self.abort()
                raise BrokenBarrierError

    def _act(self, turn: int) -> None:
        """The last one to arrive runs the action, and opens the barrier, unless somebody who had come is dead."""
        self._look_for_dead()
        if self._cell.peek()[_ROUND] != turn or self.broken:
            raise BrokenBarrierError
        if self._action:
            self._action()

        def open_(state: State) -> bool | None:
            if state[_ROUND] != turn or state[_STATE] != _ACTING:
                return None
            state[_ROUND] += 1
            state[_STATE] = _FILLING
            state[_ARRIVED] = []
            return True

        if not changed(self._cell, open_):
            raise BrokenBarrierError

    def _wait(self, turn: int, deadline: float | None) -> None:
        def look() -> bool | None:
            state = self._cell.peek()
            if turn in state[_BROKEN_ROUNDS] or (state[_ROUND] == turn and state[_STATE] == _BROKEN):
                raise BrokenBarrierError
            return True if state[_ROUND] != turn else None

        while not wait_for_change(self._cell, look, deadline, _LOOK):
            self._look_for_dead()
            if left(deadline, 1.0) <= 0:
                self._break(turn, acting=False)
                deadline = None  # it is broken, or all have come: then the action is waited for, however long it takes

    def _break(self, turn: int | None, acting: bool = True) -> None:
        """Break a round, if it is not over; None for the one that there is. ``acting``: also if the action runs."""

        def break_(state: State) -> bool | None:
            if (turn is not None and state[_ROUND] != turn) or state[_STATE] == _BROKEN:
                return None
            if state[_STATE] == _ACTING and not acting:
                return None
            state[_STATE] = _BROKEN
            return True

        changed(self._cell, break_)

    def _look_for_dead(self) -> None:
        state = self._cell.peek()
        if state[_STATE] != _BROKEN and any(map(is_dead, set(state[_ARRIVED]))):
            self._break(state[_ROUND])

    def abort(self) -> None:
        """Break the barrier: all who wait, and all who come, get BrokenBarrierError."""
        self._break(None)

    def reset(self) -> None:
        """Begin anew. All who wait get BrokenBarrierError."""

        def begin(state: State) -> bool | None:
            if state[_STATE] == _FILLING and not state[_ARRIVED]:
                return None
            if state[_ARRIVED]:
                state[_BROKEN_ROUNDS] = [*state[_BROKEN_ROUNDS], state[_ROUND]][-_KEPT:]
            state[_ROUND] += 1
            state[_STATE] = _FILLING
            state[_ARRIVED] = []
            return True

        changed(self._cell, begin)

    @property
    def parties(self) -> int:
        """How many have to come."""
        return self._parties

    @property
    def n_waiting(self) -> int:
        """How many wait now. Never blocks."""
        state = self._cell.peek()
        return len(state[_ARRIVED]) if state[_STATE] == _FILLING else 0

    @property
    def broken(self) -> bool:
        """Whether it is broken. Never blocks."""
        return bool(self._cell.peek()[_STATE] == _BROKEN)

    def __repr__(self) -> str:
        state = "broken" if self.broken else f"waiters={self.n_waiting}/{self._parties}"
        return f"<{type(self).__name__} at {id(self):#x}: {state}>"
