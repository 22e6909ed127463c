"""What the daemon does by itself every few seconds.

It looks at its slots (frees those whose lock was still held when their mutex went, notes since when a lock is
held) and removes what dead processes left: their private pools, and data segments that no slot means.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from wdkmutex_shm import sweep
from wdkmutex_shm.pool import Pool

from .server import Service

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
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(_EVERY, self._round)

    def _round(self) -> None:
        begun = time.monotonic()
        lost = self._lost()
        if lost is not None:
            # Nobody finds this daemon any more, and while it lives no other can take its place.
            log.critical("%s was removed: this daemon ends, and the next one goes on from the segments", lost)
            self._service.stop()
            return
        try:
            self._service.end_stalled()
            swept = sweep_now(self._pool)
            if swept["pools"] or swept["data"]:
                log.info("swept %d private pools and %d data segments", len(swept["pools"]), len(swept["data"]))
        except Exception:
            log.exception("housekeeping failed; it is tried again")
        took = time.monotonic() - begun
        self._timer = self._loop.call_later(max(_EVERY, took / _SHARE), self._round)

    def stop(self) -> None:
        """No further round."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
