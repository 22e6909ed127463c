"""Who a process is, beyond its pid, and how it is proved dead.

A pid alone proves nothing: it is reused. A process here is its pid, its start time and the boot it belongs to.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import NamedTuple

__all__ = ["Identity", "boot_id", "command_of", "image", "is_dead", "me", "pid_namespace", "start_time"]


class Identity(NamedTuple):
    """A process for all time: pid, start time in clock ticks since boot (proc(5), field 22)."""

    pid: int
    start: int


@lru_cache(maxsize=1)
def boot_id() -> bytes:
    """Return the 16 bytes of the kernel's random boot id."""
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return bytes.fromhex(file.read().strip().replace(b"-", b"").decode("ascii"))


def pid_namespace() -> int:
    """Return the inode of the calling process's pid namespace; pids mean nothing across two of them."""
    return os.stat("/proc/self/ns/pid").st_ino


def start_time(pid: int) -> int | None:
    """Return the start time of a process in clock ticks since boot, or None if no such process exists."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command, in parentheses, may itself hold spaces and parentheses: count the fields from its end.
    return int(text[text.rindex(b")") + 2 :].split()[19])


_images: dict[int, int] = {}


def image() -> int:
    """Return a random number for the program that the calling process runs; exec changes it, and so does fork."""
    return _images.get(os.getpid()) or _images.setdefault(os.getpid(), int.from_bytes(os.urandom(4), "little"))


os.register_at_fork(after_in_child=_images.clear)

_mine: Identity | None = None


def me() -> Identity:
    """Return the identity of the calling process."""
    global _mine
    pid = os.getpid()
    if _mine is None or _mine.pid != pid:
        start = start_time(pid)
        assert start is not None, "/proc/self/stat must be readable"
        _mine = Identity(pid, start)
    return _mine


def is_dead(pid: int, start: int) -> bool:
    """Tell whether the process is proved dead: no such pid, another start time, or a zombie.

    A zombie has one thread. Where the first thread has ended before others the state is the same, but those still run.

    Only for processes of this boot and this pid namespace; the caller checks that first.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:
        return False
    rest = fields[fields.rindex(b")") + 2 :].split()
    return int(rest[19]) != start or rest[0] == b"X" or (rest[0] == b"Z" and int(rest[17]) <= 1)


def command_of(pid: int) -> str:
    """Return the command line of a process on one line, its name if it has none, ``?`` if it is gone.

    ``?`` as well where it cannot be read, for want of a descriptor: the errors that name a process matter more.
    """
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            raw = file.read()
        if not raw:  # a thread of the kernel, or a zombie
            with open(f"/proc/{pid}/comm", "rb") as file:
                raw = file.read()
    except OSError:
        return "?"
    # Arguments end with a zero byte; who has written another title there may have put spaces between them.
    return " ".join(raw.replace(b"\0", b" ").decode("utf-8", "replace").split()) or "?"
