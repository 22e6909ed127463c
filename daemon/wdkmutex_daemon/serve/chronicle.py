"""What happened to the mutexes of an instance, for its log: locks whose holder died, and deadlocks that were broken.

Both happen between other processes, which never ask the daemon: it reads afterwards what they left in shared memory. It
tells of what happens while it runs: what the pool had seen before is where it begins.
"""

from __future__ import annotations

import logging

from wdkmutex_shm.base.records import SlotInfo
from wdkmutex_shm.core import _core
from wdkmutex_shm.core._core import Segment
from wdkmutex_shm.observe import deadlock
from wdkmutex_shm.pool.pool import Pool
from wdkmutex_shm.pool.slot_info import info_of

__all__ = ["Chronicle"]

log = logging.getLogger(__name__)


class Chronicle:
    """Of one instance.

    Args:
        instance: its name.
        pool: its pool, as it is when the daemon starts.
    """

    def __init__(self, instance: str, pool: Pool) -> None:
        self._instance = instance
        self._sums: dict[int, int] = {}
        self._deaths: dict[int, dict[tuple[int, int], int]] = {}
        for segment in pool.segments:
            self._sums[segment.number] = _core.deaths(segment)
            self._deaths[segment.number] = dict(_core.deaths_of(segment)) if self._sums[segment.number] else {}
            pool.trim(segment)
        self._told = deadlock.told(0)[0]

    def look_at(self, segment: Segment) -> None:
        """Log the locks of a pool segment whose holder has died since the last look."""
        total = _core.deaths(segment)
        if total == self._sums.get(segment.number, 0):
            return
        self._sums[segment.number] = total
        known, found = self._deaths.get(segment.number, {}), dict(_core.deaths_of(segment))
        self._deaths[segment.number] = found
        for (slot, generation), count in found.items():
            if count > known.get((slot, generation), 0):
                info = info_of(segment, slot, generation)
                if info is not None:
                    self._tell_death(info)

    def _tell_death(self, info: SlotInfo) -> None:
        dead = info.owner_pid if info.state == "abandoned" else info.abandoned_pid
        who = f"process {dead}" if dead else "a process"
        then = "will see" if info.state == "abandoned" else "has seen"
        log.warning(
            "abandoned: %s died while holding %r; T is as last committed, and the next owner %s `abandoned`",
            who,
            info.name,
            then,
        )

    def look_at_deadlocks(self) -> None:
        """Log the deadlocks among mutexes of the instance that were broken since the last look."""
        self._told, found = deadlock.told(self._told)
        for instances, circle in found:
            if self._instance in instances:
                log.warning("deadlock of %s", circle)
