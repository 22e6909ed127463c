"""What a worker of the storm works on, and what it may keep open."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..base.harness import descriptors
from .ledger import Ledger

__all__ = ["Book", "OopsError", "footprint", "is_running", "parent_of", "undisturbed"]


class OopsError(Exception):
    """What a worker raises while it holds a lock."""


class Book(NamedTuple):
    """A mutex of the storm.

    Attributes:
        number: of it.
        name: registered name; of an anonymous one, for its ledger.
        kind: ``fast``, ``k`` or ``section``.
        ledger: form of its T; None for one that keeps no book.
        handle: of an anonymous one, else None.
        renewed: whether it is registered anew now and then.
    """

    number: int
    name: str
    kind: str
    ledger: Ledger | None
    handle: Any
    renewed: bool


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let no Ctrl-C through: where it would leave something half done that is the program's, as in any program."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _status(pid: int) -> list[str]:
    """What the kernel says of a process, from its state on; nothing if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_running(pid: int) -> bool:
    """Whether a process has not ended."""
    return _status(pid)[:1] not in ([], ["Z"], ["X"])


def parent_of(pid: int) -> int | None:
    """The parent of a process; None if it is gone."""
    found = _status(pid)
    return int(found[1]) if found else None


def footprint(before: tuple[int, int] | None = None) -> tuple[int, int]:
    """Open descriptors, and mappings of segments of ours: not of the parent's own mutexes, nor of the wait board.

    With ``before``, what there is a moment later if that is more: the threads that sleep for tasks look up every 50 ms,
    or stay for a second, and let go of a mutex then.
    """
    deadline = time.monotonic() + 3
    while before is not None and _footprint()[1] > before[1] and time.monotonic() < deadline:
        time.sleep(0.01)
    return _footprint()


def _footprint() -> tuple[int, int]:
    passed_over = f".@{os.getppid()}.", ".@waits"
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        mappings = sum("/dev/shm/wdkm." in line and not any(part in line for part in passed_over) for line in file)
    return descriptors(), mappings
