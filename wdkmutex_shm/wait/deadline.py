"""When a wait is over, and how long a waiter sleeps before it looks again."""

from __future__ import annotations

import time

from ..base._os import planted
from ..core._core import seconds_of

__all__ = ["LONGEST_SLEEP", "Deadline"]

#: Seconds after which a waiter looks for itself, told or not.
LONGEST_SLEEP: float = 60.0 if planted("no-look") else 1.0


class Deadline:
    """When a timeout is over.

    Args:
        timeout: seconds from now; None for no limit.
    """

    __slots__ = ("at", "timeout")

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        seconds = seconds_of(timeout)
        self.at = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds that are left, 0 when it is over; None for no limit."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())

    def nap(self, longest: float = LONGEST_SLEEP) -> float:
        """How long to sleep now: what is left, at most ``longest``. 0 when it is over."""
        left = self.left()
        return longest if left is None else min(longest, left)
