"""The books of a queue that is neither bounded nor joined; see :mod:`.item_counts` for others."""

from __future__ import annotations

from typing import Any

from .. import KMutex
from ..core._core import exchange_if

__all__ = ["Counter"]


class Counter:
    """The books of a queue that takes any number of items and is not joined: one number, for ``qsize()``.

    Items that died with a process stay counted.
    """

    most = 0

    def __init__(self, cell: KMutex[int] | None) -> None:
        self.taking: list[None] = []
        self.cell: KMutex[int] = KMutex(0) if cell is None else cell

    def _add(self, number: int) -> None:
        found = self.cell.peek()
        while True:
            expected = found
            found = exchange_if(self.cell, expected, expected + number)
            if found == expected:
                return

    def reserve(self, _block: bool, _timeout: float | None, had: list[bool]) -> bool:
        """Count one more item."""
        self._add(1)
        had.append(True)
        return True

    def release(self) -> None:
        """An item could not be sent."""
        self._add(-1)

    def will_take(self) -> None:
        """Who takes items is not noted here."""

    def sent(self, _count: int) -> None:
        """Items were sent; they are counted already."""

    def may_have_lost_one(self) -> None:
        """An item may be lost: it stays counted."""

    def taken(self, _party: int, noted: list[bool]) -> None:
        """An item was taken."""
        self._add(-1)
        noted.append(True)  # where a handler raises just before, the item is counted off twice

    def count(self) -> int:
        """How many items were put and not taken."""
        return max(0, self.cell.peek())

    def full(self) -> bool:
        """Never."""
        return False

    def shared(self) -> tuple[Any, ...]:
        """What another process needs to open the same books."""
        return self.cell, None, 0, False
