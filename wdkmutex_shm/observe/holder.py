"""Who holds a lock, told without taking it."""

from __future__ import annotations

import os
from typing import NamedTuple

from ..base import identity

__all__ = ["Holder", "describe"]


class Holder(NamedTuple):
    """The thread that holds a lock.

    Attributes:
        pid: its process.
        tid: its Linux thread id; equal to ``pid`` for a main thread.
        thread: the thread's name as the kernel knows it, or ``?``.
        command: the process's command line, or ``?`` if it is gone.
        held_for: seconds since the hold was first observed; a lower bound, because locking reads no clock.
        alive: False if the thread or its process is proved to have ended and the lock was not acquired since.
    """

    pid: int
    tid: int
    thread: str
    command: str
    held_for: float
    alive: bool


def thread_name(pid: int, tid: int) -> str:
    """Return the kernel's name of a thread, ``?`` if it is gone."""
    try:
        with open(f"/proc/{pid}/task/{tid}/comm", "rb") as file:
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return "?"


def holder_of(pid: int, tid: int, held_for: float | None, *, abandoned: bool) -> Holder:
    """Return the :class:`Holder` for an owner word. ``abandoned``: whether the kernel marked the lock."""
    alive = not abandoned and not identity.has_ended(pid, tid)
    return Holder(pid, tid, thread_name(pid, tid), identity.command_of(pid), held_for or 0.0, alive)


def describe(pid: int, tid: int, held_for: float | None) -> str:
    """Return half a sentence on who holds a lock, for error messages."""
    if not pid:
        return "it was just being acquired or released"
    who = "this process" if pid == os.getpid() else f"process {pid} ({identity.command_of(pid)[:120]})"
    since = "" if held_for is None else f", for at least {held_for:.3f} s"
    return f"{who}, thread {tid} ({thread_name(pid, tid)}), holds it{since}"
