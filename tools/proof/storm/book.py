"""What a worker of the storm works on, and what it may keep open."""

from __future__ import annotations

import os
import time
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


def footprint(before: tuple[int, int] | None = None) -> tuple[int, int]:
    """Open descriptors, and mappings of segments of ours: not of the parent's own mutexes, nor of the wait board.

    With ``before``, what there is a moment later if that is more: the thread that is told of releases for tasks looks
    up every 50 ms, and lets go of a mutex then.
    """
    deadline = time.monotonic() + 1
    while before is not None and _footprint()[1] > before[1] and time.monotonic() < deadline:
        time.sleep(0.01)
    return _footprint()


def _footprint() -> tuple[int, int]:
    passed_over = f".@{os.getppid()}.", ".@waits"
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        mappings = sum("/dev/shm/wdkm." in line and not any(part in line for part in passed_over) for line in file)
    return len(os.listdir("/proc/self/fd")), mappings
