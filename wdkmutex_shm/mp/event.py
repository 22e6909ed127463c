"""Event: a number in shared memory, twice the times that it was set, plus one while it is set."""

from __future__ import annotations

from multiprocessing import synchronize
from typing import Any

from .. import KMutex
from ..core._core import exchange_if
from .shared_state import Shared, deadline_of, left, must_not_block, wait_for_change, waits

__all__ = ["Event"]

_LOOK = 1.0


class Event(Shared, synchronize.Event):
    """An event. Nobody can die in the midst of it, because setting it is one commit.

    Whoever waits while it is set is told, even if it was cleared again before the waiter ran.
    """

    def __init__(self, *, ctx: Any) -> None:
        self._attach(KMutex(0))

    def _attach(self, word: KMutex[int]) -> None:
        self._word = word

    def _shared(self) -> tuple[Any, ...]:
        return (self._word,)

    def is_set(self) -> bool:
        """Whether it is set. Never blocks."""
        return bool(self._word.peek() & 1)

    def set(self) -> None:
        """Set it, and wake all who wait. Up to IRQL DISPATCH."""
        found = self._word.peek()
        while not found & 1:
            expected = found
            found = exchange_if(self._word, expected, expected + 3, "set")
            if found == expected:
                return

    def clear(self) -> None:
        """Clear it. Up to IRQL DISPATCH."""
        found = self._word.peek()
        while found & 1:
            expected = found
            found = exchange_if(self._word, expected, expected - 1, "clear")
            if found == expected:
                return

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set. Returns False when the time was up.

        Args:
            timeout: seconds, or None.

        Raises:
            IrqlTooHigh: the thread must not block. KeyboardInterrupt.
        """
        if waits(True, timeout):
            must_not_block("Event.wait")
        deadline = deadline_of(timeout)
        times = self._word.peek() >> 1

        def look() -> bool | None:
            found = self._word.peek()
            return True if found & 1 or found >> 1 != times else None

        while not wait_for_change(self._word, look, deadline, _LOOK):
            if left(deadline, 1.0) <= 0:
                return False
        return True

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} at {id(self):#x} {'set' if self.is_set() else 'unset'}>"
