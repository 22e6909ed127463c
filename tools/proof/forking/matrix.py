"""A child made in every way, by every thread, in every state of every kind of mutex."""

from __future__ import annotations

import itertools
import random
from typing import Any

from wdkmutex_shm import CriticalSection, FastMutex, KMutex
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool import private

from ..base.harness import Proof
from .child import Hold
from .family import PATIENCE, Cell, Family, T
from .states import STATES
from .ways import WAYS

_KINDS: dict[str, Any] = {"fast": FastMutex, "k": KMutex, "section": CriticalSection}
_NEED_T = ("committing", "awaiting a value")


def cells(chance: random.Random) -> list[Cell]:
    """All cells in random order, those first whose children are made fast."""
    found = [
        Cell(kind, state, way, thread)
        for kind, state, way, thread in itertools.product(_KINDS, STATES, WAYS, ("main", "other"))
        if not (kind == "section" and state.startswith(_NEED_T))
        and not (state.endswith("goes on") and (way != "fork" or thread != "main"))
    ]
    chance.shuffle(found)
    return sorted(found, key=lambda cell: "fork" not in cell.way or "server" in cell.way)


def try_cell(proof: Proof, cell: Cell) -> None:
    """Make the child and see that parent and child find what they should, and that nothing is left."""
    family = Family(cell, CriticalSection() if cell.kind == "section" else _KINDS[cell.kind](T))
    try:
        try:
            STATES[cell.state](family)
        finally:
            family.end()
        _finish(family)
    except Exception as error:
        family.note(repr(error))
    promise = "what a child inherits it does not own, and nobody gets stuck"
    proof.expect(not family.wrong, promise, **cell._asdict(), wrong="; ".join(family.wrong))
    proof.counts["cells"] += 1


def _finish(family: Family) -> None:
    """The lock is free in the end, T has what everybody added, and nothing is left."""
    cell, mutex = family.cell, family.mutex
    hold = Hold(mutex, PATIENCE)
    if hold.abandoned:
        family.note("somebody died holding the lock")
    if hold.guard is None:
        mutex.leave()
        mutex._vacate()
        mutex._collect()
    else:
        count = int.from_bytes(hold.guard.value[:8], "big")
        hold.guard.drop_safe()
        expected = 1 if cell.state == "die" or cell.state.endswith("goes on") else 2
        if count != expected:
            family.note(f"{count} were added to T, not {expected}")
        mutex.to_owned()
    left = shm.listing(private.the_pool().prefix + ".d")
    if left:
        family.note(f"data segments are left: {left}")
