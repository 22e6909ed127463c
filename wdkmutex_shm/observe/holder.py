"""Who holds a lock, told without taking it."""

from __future__ import annotations

import os

from ..base import identity
from ..base.records import Holder

__all__ = ["Texts", "describe", "holder_of", "thread_name"]


def thread_name(pid: int, tid: int) -> str:
    """Return the kernel's name of a thread, ``?`` if it is gone."""
    try:
        with open(f"/proc/{pid}/task/{tid}/comm", "rb") as file:
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return "?"


class Texts:
    """What threads and processes are called, each read once: for who looks at many locks."""

    def __init__(self) -> None:
        self._threads: dict[tuple[int, int], str] = {}
        self._commands: dict[int, str] = {}

    def of(self, pid: int, tid: int) -> tuple[str, str]:
        """The name of a thread, and the command line of its process."""
        thread = self._threads.get((pid, tid))
        if thread is None:
            thread = self._threads[pid, tid] = thread_name(pid, tid)
        command = self._commands.get(pid)
        if command is None:
            command = self._commands[pid] = identity.command_of(pid)
        return thread, command


def holder_of(pid: int, tid: int, held_for: float | None, *, abandoned: bool) -> Holder:
    """Return the :class:`Holder` for an owner word. ``abandoned``: whether the kernel marked the lock."""
    alive = not abandoned and not identity.has_ended(pid, tid)
    return Holder(pid, tid, thread_name(pid, tid), identity.command_of(pid), held_for or 0.0, alive)


def describe(pid: int, tid: int, held_for: float | None) -> str:
    """Return half a sentence on who holds a lock, for error messages."""
    if not pid:
        return "it was being acquired or released"
    who = "this process" if pid == os.getpid() else f"process {pid} ({identity.command_of(pid)[:120]})"
    since = "" if held_for is None else f", for at least {held_for:.3f} s"
    return f"{who}, thread {tid} ({thread_name(pid, tid)}), holds it{since}"
