"""What tests of the wait board share: who waits, and the bytes that say so."""

from __future__ import annotations

import os
from typing import Any

from kinds import acquire
from processes import Line
from support import wait_until

from wdkmutex_shm import LockTimeout, MutexDestroyed, Waiter
from wdkmutex_shm.core import _core

HEADER, RECORD = 4096, 128
"""Bytes of the board's header, and of a record."""


def wait_for_lock(line: Line, mutex: Any, timeout: float | None = None) -> None:
    line.say("waiting")
    try:
        hold = acquire(mutex, timeout)
    except (LockTimeout, MutexDestroyed, KeyboardInterrupt) as error:
        line.say(type(error).__name__)
    else:
        line.say("had")
        line.hear()
        hold.release()


def waiting(mutex: Any, count: int = 1) -> tuple[Waiter, ...]:
    """The waiters, once there are so many."""
    found: tuple[Waiter, ...] = wait_until(lambda: len(found := mutex.waiters()) >= count and found, f"{count} wait")
    return found


def raw_record(number: int) -> bytes:
    with open(_core.wait_board_path(), "rb") as file:
        return os.pread(file.fileno(), RECORD, HEADER + number * RECORD)
