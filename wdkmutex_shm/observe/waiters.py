"""Who waits for what, as the wait board tells it (:mod:`wdkmutex_shm.core._core`), without any lock being taken.

A record says what its writer did last. Of a process that was killed while it waited it stays, and is told apart here by
the process's start time: the dead never count.
"""

from __future__ import annotations

import atexit
import sys
import time
from typing import NoReturn

from ..base import identity
from ..base.names import KIND_WORDS
from ..base.records import Waiter
from ..core import _core
from ..core._core import Hold, WaitRecord
from ..errors import DeadlockLink, LockTimeout
from . import holder

__all__ = ["all_waits", "by_tenant", "count", "label_of", "link_of", "raise_timeout", "waiters_of"]


@atexit.register
def _at_end() -> None:
    # Not imported here: a forked child ends with this, too. Who never had a mutex has not loaded it, nor waited.
    sweep = sys.modules.get("wdkmutex_shm.pool.sweep")
    if sweep is not None:
        sweep.leave_board()


_HOW = {
    _core.WAIT_LOCK: "lock",
    _core.WAIT_ANY: "any",
    _core.WAIT_VALUE: "value",
    _core.WAIT_TASK: "task",
    _core.WAIT_BACK: "lock",
}


def _living(records: list[WaitRecord]) -> list[WaitRecord]:
    dead: dict[tuple[int, int], bool] = {}
    for record in records:
        process = record.pid, record.start
        if process not in dead:
            dead[process] = identity.is_dead(*process)
    return [record for record in records if not dead[record.pid, record.start]]


def _waited(record: WaitRecord) -> float:
    return max(0, time.monotonic_ns() - record.since) / 1e9


def _waiter(record: WaitRecord, texts: holder.Texts | None = None) -> Waiter:
    thread, command = (texts or holder.Texts()).of(record.pid, record.tid)
    return Waiter(record.pid, record.tid, thread, command, _waited(record), _HOW.get(record.kind, "?"))


def waiters_of(nonce: int, slot: int, generation: int) -> tuple[Waiter, ...]:
    """Return who waits for the tenant of a slot (of the segment with that nonce), the longest waiting first."""
    records = _living(_core.wait_records(nonce, slot, generation))
    return tuple(_waiter(record) for record in sorted(records, key=lambda record: record.since))


def count(nonce: int, slot: int, generation: int) -> int:
    """Return how many :func:`waiters_of` there are."""
    found = _core.waiting_processes(nonce, slot, generation)
    return sum(waits for process, waits in found.items() if not identity.is_dead(*process))


def all_waits() -> list[tuple[WaitRecord, Waiter, Hold | None]]:
    """Return every wait of this user's processes: its record, who waits, and what it waits for (None: it is gone)."""
    return [
        (record, _waiter(record), _core.hold_of(record.segment, record.nonce, record.slot, record.generation))
        for record in sorted(_living(_core.wait_records()), key=lambda record: record.since)
    ]


def by_tenant(texts: holder.Texts) -> dict[int, dict[tuple[int, int], tuple[Waiter, ...]]]:
    """Return every wait of this user's processes: nonce of a segment -> (slot, generation) -> who waits, the longest
    waiting first."""
    found: dict[int, dict[tuple[int, int], tuple[Waiter, ...]]] = {}
    for record in sorted(_living(_core.wait_records()), key=lambda record: record.since):
        tenants = found.setdefault(record.nonce, {})
        place = record.slot, record.generation
        tenants[place] = (*tenants.get(place, ()), _waiter(record, texts))
    return found


def label_of(record: WaitRecord, hold: Hold) -> str:
    """Return what to call the mutex that a record is about: its name, else its kind, place and maker."""
    if hold.name:
        return hold.name
    pool, _, number = record.segment.rpartition(".p")
    maker = pool.rpartition("@")[2].partition(".")[0]
    return f"anonymous {KIND_WORDS.get(hold.kind, '?')} mutex {number}.{record.slot} of process {maker}"


def link_of(record: WaitRecord, holds: str, waits_for: str) -> DeadlockLink:
    """Return the link of a circle that a record is about."""
    waiter = _waiter(record)
    return DeadlockLink(waiter.pid, waiter.tid, waiter.thread, waiter.command, holds, waits_for, waiter.waited)


def raise_timeout(
    name: str,
    timeout: float | None,
    pid: int,
    tid: int,
    held_for: float | None,
    starving: int,
    nonce: int,
    slot: int,
    generation: int,
) -> NoReturn:
    """Raise the LockTimeout of a wait that was over after ``timeout`` seconds, for the lock that ``pid`` holds.

    ``starving`` is how many seem to wait for it: the slot's own count, in which the dead remain.
    """
    others = count(nonce, slot, generation) if timeout or starving else 0  # who only polls is not kept for nothing
    waiting = {0: "", 1: "; 1 other is waiting for it"}.get(others, f"; {others} others are waiting for it")
    raise LockTimeout(
        f"mutex {name!r} was not free within {timeout} s: {holder.describe(pid, tid, held_for)}{waiting}",
        name=name,
        timeout=timeout,
        held_for=held_for,
        owner_pid=pid or None,
        owner_tid=tid or None,
        waiters=others,
    )
