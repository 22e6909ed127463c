"""What a worker of the storm works on, and what it may keep open."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from .ledger import Ledger

__all__ = ["Book", "footprint"]


class Book(NamedTuple):
    """A mutex of the storm.

    Attributes:
        number: of it.
        name: registered name; of an anonymous one, for its ledger.
        kind: ``fast``, ``k`` or ``section``.
        ledger: form of its T; None for a section.
        handle: of an anonymous one, else None.
        renewed: whether it is registered anew now and then.
    """

    number: int
    name: str
    kind: str
    ledger: Ledger | None
    handle: Any
    renewed: bool


def footprint() -> tuple[int, int]:
    """Open descriptors, and mappings of segments of ours but for those of the parent's own mutexes."""
    inherited = f".@{os.getppid()}."
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        mappings = sum("/dev/shm/wdkm." in line and inherited not in line for line in file)
    return len(os.listdir("/proc/self/fd")), mappings
