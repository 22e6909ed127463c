"""Processes as one number each, small enough for an int of 64 bits: start time and pid."""

from __future__ import annotations

import threading
from multiprocessing import process

from ..base import identity
from ..base._os import times_forked
from ..errors import NotOwned

__all__ = ["is_dead", "lost", "me", "my_name", "pid_of"]

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


def lost(parent: int, holder: int) -> NotOwned:
    """Return the error of who releases what its dead parent held when it forked.

    Args:
        holder: who has it now, 0 for nobody.
    """
    pid = pid_of(parent)
    now = f"process {pid_of(holder)} holds it now" if holder else "it is free now"
    return NotOwned(
        f"cannot release this lock: process {pid} held it and forked this one, which did not inherit the lock; when "
        f"{pid} ended, the lock passed on, and {now}. Acquire a lock in the process that uses it, after the fork",
        owner_pid=pid_of(holder) or None,
    )


def my_name() -> str:
    """Return what the calling thread is called in the repr of a lock that it holds."""
    name = process.current_process().name
    thread = threading.current_thread().name
    return name if thread == "MainThread" else f"{name}|{thread}"
