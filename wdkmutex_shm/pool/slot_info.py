"""What slots tell those who look at them, without their locks being taken."""

from __future__ import annotations

import os
from typing import NamedTuple

from ..base.names import KIND_WORDS, data_segment
from ..core import _tenant
from ..core._segment import SLOT_BYTES, Segment
from ..memory import shm

__all__ = ["SlotInfo", "Statistics", "data_bytes", "info_of"]


class Statistics(NamedTuple):
    """Counts of one mutex since it was made; see ``statistics()``.

    Attributes:
        acquisitions: how often the lock was acquired. contended: how often after a wait.
        abandoned: how often its holder died. timeouts: how many waits timed out.
        commits: how often T was published. value_bytes: size of T in msgpack.
        pool_bytes: shared memory used by the mutex.
    """

    acquisitions: int
    contended: int
    abandoned: int
    timeouts: int
    commits: int
    value_bytes: int
    pool_bytes: int


class SlotInfo(NamedTuple):
    """What a slot tells without its lock being taken; each fact is right by itself, not all at one instant.

    Attributes:
        name, kind, label: the mutex's name, kind (``fast``, ``k``, ``section``) and T.
        value_bytes: bytes of T in msgpack form. pool_bytes: shared memory that the mutex takes.
        state: ``free``, ``held`` or ``abandoned`` (its holder died and nobody took it over yet).
        owner_pid, owner_tid: the holder. held_for: seconds since the hold was first seen, a lower bound.
        acquisitions, contended, abandoned, timeouts, commits: counts since registration.
        abandoned_pid: the last holder that died. segment, slot, generation: where it lives.
    """

    name: str
    kind: str
    label: str
    value_bytes: int
    pool_bytes: int
    state: str
    owner_pid: int | None
    owner_tid: int | None
    held_for: float | None
    acquisitions: int
    contended: int
    abandoned: int
    timeouts: int
    commits: int
    abandoned_pid: int | None
    segment: str
    slot: int
    generation: int


def data_bytes(prefix: str, idents: tuple[int, ...]) -> int:
    """Return the bytes of shared memory behind the data segments ``idents``."""
    total = 0
    for ident in idents:
        if ident:
            try:
                total += os.stat(shm.FOLDER + data_segment(prefix, ident)).st_size
            except OSError:
                continue
    return total


def info_of(segment: Segment, slot: int, generation: int) -> SlotInfo | None:
    """Return the :class:`SlotInfo` of a tenant, or None when its generation has moved on."""
    facts = _tenant.snapshot(segment, slot, generation)
    if facts is None:
        return None
    owner, dead = facts.owner, facts.abandoned_pid
    return SlotInfo(
        name=facts.name,
        kind=KIND_WORDS.get(facts.kind, f"kind {facts.kind}"),
        label=facts.label,
        value_bytes=facts.value_bytes,
        pool_bytes=SLOT_BYTES + data_bytes(segment.prefix, facts.data_ids),
        state=facts.state,
        owner_pid=owner >> 32 or None,
        owner_tid=owner & 0xFFFFFFFF or None,
        held_for=facts.held_for,
        acquisitions=facts.acquisitions,
        contended=facts.contended,
        abandoned=facts.abandoned,
        timeouts=facts.timeouts,
        commits=facts.commits,
        abandoned_pid=dead or None,
        segment=segment.name,
        slot=slot,
        generation=generation,
    )
