"""Processes as one number each, small enough for an int of 64 bits: start time and pid."""

from __future__ import annotations

from .. import identity
from .._thread import times_forked

__all__ = ["is_dead", "me", "pid_of"]

_PID_BITS = 22  # the kernel's pids have at most so many

_me = 0
_forked = -1


def me() -> int:
    """Return the number of the calling process."""
    global _me, _forked
    # Looked at by itself and not through forks.settle(): each lock and each release come here.
    if _forked != times_forked():
        pid, start = identity.me()
        _me = start << _PID_BITS | pid
        _forked = times_forked()
    return _me


def pid_of(party: int) -> int:
    """Return the pid in a party."""
    return party & (1 << _PID_BITS) - 1


def is_dead(party: int) -> bool:
    """Whether that process is proved dead. It reads a file in /proc: about 20 microseconds."""
    return party != me() and identity.is_dead(pid_of(party), party >> _PID_BITS)
