"""How the daemon waits: for a moment without sleeping, while requests follow each other closely.

Waking up takes a process longer than serving a request, above all on a virtual processor that sleeps too. A client
that asks for one name after the other is served several times faster by a daemon that still looks when the next request
comes. It looks only as long as that pays: once nothing came in time, it sleeps at once, until a request comes right
after the last one again.
"""

from __future__ import annotations

import os
import selectors
import time

__all__ = ["EAGER_SECONDS", "EagerSelector"]

EAGER_SECONDS = 0.00015
"""How long the daemon looks for the next request before it sleeps."""

_Ready = list[tuple[selectors.SelectorKey, int]]


class EagerSelector(selectors.EpollSelector):
    """A selector for the daemon's event loop."""

    def __init__(self) -> None:
        super().__init__()
        self._eager = False

    def select(self, timeout: float | None = None) -> _Ready:
        """As the base class. Between two looks, the processor is given to whoever else could use it."""
        if timeout is not None and timeout <= 0:
            return super().select(0)
        begun = time.monotonic()
        if self._eager:
            until = begun + (EAGER_SECONDS if timeout is None else min(timeout, EAGER_SECONDS))
            while True:
                ready = super().select(0)
                if ready:
                    return ready
                if time.monotonic() >= until:
                    break
                os.sched_yield()
        ready = super().select(timeout)
        self._eager = bool(ready) and time.monotonic() - begun < 2 * EAGER_SECONDS
        return ready
