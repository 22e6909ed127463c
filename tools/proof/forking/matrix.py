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
from .making import PATIENCE, Cell, T, Wrong
from .multi_commit import TOGETHER
from .states import STATES
from .ways import WAYS

__all__ = ["Cell", "cells", "try_cell"]

_KINDS: dict[str, Any] = {"fast": FastMutex, "k": KMutex, "section": CriticalSection}
_STATE_OF = {**STATES, **TOGETHER}
_NEED_T = ("committing", "awaiting a value")


def cells(chance: random.Random) -> list[Cell]:
    """All cells in random order, those first whose children are made fast."""
    found = [
        Cell(kind, state, way, thread)
        for kind, state, way, thread in itertools.product(_KINDS, _STATE_OF, WAYS, ("main", "other"))
        if not (kind == "section" and state.startswith(_NEED_T))
        and not (state.endswith("goes on") and (way != "fork" or thread != "main"))
    ]
    chance.shuffle(found)
    return sorted(found, key=lambda cell: "fork" not in cell.way or "server" in cell.way)


def try_cell(proof: Proof, cell: Cell) -> None:
    """Make the child and see that parent and child find what they should."""
    mutex = CriticalSection() if cell.kind == "section" else _KINDS[cell.kind](T)
    try:
        wrong = _STATE_OF[cell.state](cell, mutex)
    except Exception as error:
        wrong = [repr(error)]
    wrong += _finish(cell, mutex)
    found = "; ".join(each for each in wrong if each) or None
    promise = "what a child inherits it does not own, and nobody gets stuck"
    proof.expect(found is None, promise, **cell._asdict(), wrong=found)
    proof.counts["cells"] += 1


def _finish(cell: Cell, mutex: Any) -> Wrong:
    """The lock is free in the end, T has what everybody added, and nothing is left."""
    wrong: Wrong = []
    try:
        hold = Hold(mutex, PATIENCE)
        if hold.abandoned:
            wrong.append("somebody died holding the lock")
        count = int.from_bytes(hold.guard.value[:8], "big") if hold.guard is not None else None
        hold.release()
        if count is not None and count != _ADDED[cell.state]:
            wrong.append(f"{count} were added to T, not {_ADDED[cell.state]}")
        if cell.kind == "section":
            mutex._vacate()
            mutex._collect()
        else:
            mutex.to_owned()
        left = shm.listing(private.the_pool().prefix + ".d")
        if left:
            wrong.append(f"data segments are left: {left}")
    except Exception as error:
        wrong.append(f"in the end: {error!r}")
    return wrong


_ADDED = {state: 1 if state == "die" or state.endswith("goes on") else 2 for state in _STATE_OF}
