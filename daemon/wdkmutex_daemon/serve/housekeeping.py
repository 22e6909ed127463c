"""What the daemon does by itself every few seconds.

It looks at its slots (frees those whose lock was still held when their mutex went, notes since when a lock is
held) and removes what dead processes left: their private pools, and data segments that no slot means.

Of a large pool it looks at one segment at a time and serves clients in between, and it lets go of the pages that it has
looked at: a million mutexes are half a gigabyte, which is not to count as the daemon's memory too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

from wdkmutex_shm.pool import removed, sweep
from wdkmutex_shm.pool.pool import Pool

from .chronicle import Chronicle
from .service import Service

__all__ = ["Housekeeping", "sweep_now"]

log = logging.getLogger(__name__)

_EVERY = 2.0
_SHARE = 0.02  # of the daemon's time at most


def sweep_now(pool: Pool) -> dict[str, Any]:
    """Remove what dead processes left.

    Returns:
        ``pools``: prefixes of the private pools that were removed; ``data``: names of the data segments;
        ``quarantined``: slots that still wait for their last holder.
    """
    quarantined = pool.look()
    return {"pools": sweep.dead_private_pools(), "data": sweep.orphan_data(pool), "quarantined": quarantined}


class Housekeeping:
    """The daemon's timer. Whatever goes wrong in one round is logged, and the next round comes.

    Args:
        service: the daemon.
        pool: its pool.
        lost: tells the path of what somebody removed and the daemon cannot be reached without, None if all is there.
    """

    def __init__(self, service: Service, pool: Pool, lost: Callable[[], str | None]) -> None:
        self._service = service
        self._pool = pool
        self._lost = lost
        self._chronicle = Chronicle(service.instance, pool)
        self._loop = asyncio.get_running_loop()
        self._timer = self._next(self._round(), _EVERY)

    def _next(self, steps: Iterator[None], seconds: float) -> asyncio.TimerHandle:
        return self._loop.call_later(seconds, self._step, steps)

    def _step(self, steps: Iterator[None]) -> None:
        """Go one step further in a round, or begin the next one."""
        begun = time.monotonic()
        pause = 0.0
        try:
            lost = self._lost()
            if lost is not None:
                self._end(lost)
                return
            next(steps)
        except StopIteration:
            steps, pause = self._round(), _EVERY
        except Exception:
            log.exception("housekeeping failed; it will be retried")
            steps, pause = self._round(), _EVERY
        self._timer = self._next(steps, max(pause, (time.monotonic() - begun) / _SHARE))

    def _end(self, lost: str) -> None:
        """End: nobody finds this daemon any more, and while it lives no other can take its place."""
        try:
            ended = removed.end_lost(self._pool)
            log.critical(
                "%s was removed: this daemon ends, and the next one continues with the remaining segments%s",
                lost,
                f"; {ended} mutexes were lost with the removed files (RemoveIPC= in logind.conf(5)?)" if ended else "",
            )
        finally:
            self._service.stop(lost=True)

    def _round(self) -> Iterator[None]:
        """One round, step by step."""
        pool = self._pool
        self._service.end_stalled()
        pool.reclaim()
        pools = sweep.dead_private_pools()
        yield
        spoken: set[int] = set()
        for segment in list(pool.segments):
            self._chronicle.look_at(segment)
            spoken |= pool.look_at(segment)
            yield
        self._chronicle.look_at_deadlocks()
        data = sweep.orphan_data(pool, spoken)
        if pools or data:
            log.info("swept %d private pools and %d data segments", len(pools), len(data))

    def stop(self) -> None:
        """No further round."""
        self._timer.cancel()
