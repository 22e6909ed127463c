"""What slots tell those who look at them, without their locks being taken."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..base.layout import SLOT_BYTES
from ..base.names import KIND_WORDS, data_segment
from ..base.records import SlotInfo, Statistics
from ..core import _core
from ..core._core import Segment
from ..memory import shm

if TYPE_CHECKING:
    from ..core._core import Snapshot

__all__ = ["data_bytes", "info_of", "statistics_of"]


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


def statistics_of(prefix: str, facts: Snapshot) -> Statistics:
    """Return the :class:`Statistics` of a slot's snapshot."""
    same = {field: getattr(facts, field) for field in Statistics._fields if field != "pool_bytes"}
    return Statistics(**same, pool_bytes=SLOT_BYTES + data_bytes(prefix, facts.data_ids))


def info_of(segment: Segment, slot: int, generation: int) -> SlotInfo | None:
    """Return the :class:`SlotInfo` of a tenant, or None when its generation has moved on."""
    facts = _core.snapshot(segment, slot, generation)
    if facts is None:
        return None
    return SlotInfo(
        name=facts.name,
        kind=KIND_WORDS.get(facts.kind, f"kind {facts.kind}"),
        label=facts.label,
        state=facts.state,
        owner_pid=facts.owner >> 32 or None,
        owner_tid=facts.owner & 0xFFFFFFFF or None,
        held_for=facts.held_for,
        **statistics_of(segment.prefix, facts)._asdict(),
        abandoned_pid=facts.abandoned_pid or None,
        segment=segment.name,
        slot=slot,
        generation=generation,
    )
