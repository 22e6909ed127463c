"""How the daemon waits: for a moment without sleeping, while requests follow each other closely.

Waking up takes a process longer than serving a request, above all on a virtual processor that sleeps too. A client
that asks for one name after the other is served several times faster by a daemon that still looks when the next request
comes. It looks only while that pays, and offers its processor to others between two looks: when somebody takes that, or
nothing comes in time, it sleeps at once the next time that requests follow closely, and ever more often while that goes
on.
"""

from __future__ import annotations

import os
import selectors
import time

__all__ = ["BUSY_POLL_SECONDS", "BusyPollSelector"]

BUSY_POLL_SECONDS = 0.00015
"""How long the daemon looks for the next request before it sleeps."""

_TAKEN_SECONDS = 0.00005  # somebody else has run if offering the processor takes that long
_MOST_SKIPPED = 1024

_Ready = list[tuple[selectors.SelectorKey, int]]


class BusyPollSelector(selectors.EpollSelector):
    """A selector for the daemon's event loop."""

    def __init__(self) -> None:
        super().__init__()
        self._close = False  # the last request came soon after the one before it
        self._skip = 0
        self._penalty = 1

    def select(self, timeout: float | None = None) -> _Ready:
        """As the base class."""
        if timeout is not None and timeout <= 0:
            return super().select(0)
        begun = time.monotonic()
        if self._close:
            if self._skip:
                self._skip -= 1
            else:
                ready = self._look(begun, BUSY_POLL_SECONDS if timeout is None else min(timeout, BUSY_POLL_SECONDS))
                if ready:
                    self._penalty = max(self._penalty // 2, 1)
                    return ready
                self._skip = self._penalty
                self._penalty = min(2 * self._penalty, _MOST_SKIPPED)
        ready = super().select(timeout)
        self._close = bool(ready) and time.monotonic() - begun < 2 * BUSY_POLL_SECONDS
        return ready

    def _look(self, now: float, seconds: float) -> _Ready:
        """Look for a moment, without sleeping."""
        until = now + seconds
        before = now
        while True:
            ready = super().select(0)
            if ready or now > until or now - before > _TAKEN_SECONDS:
                return ready
            before = time.monotonic()
            os.sched_yield()
            now = time.monotonic()
