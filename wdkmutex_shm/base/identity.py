"""Who a process is, beyond its pid, and how it is proved dead. Everybody asks here.

A pid alone proves nothing: it is reused. A process here is its pid, its start time and the boot it belongs to.

It is dead when that is proved, and else it lives. Proofs are:

* no process has its pid, or the one that has it has ended and waits to be reaped: the kernel says so, whoever asks;
* the process that has its pid began at another time, read in a /proc that is certainly of this pid namespace.

That a file in /proc is missing or may not be read proves nothing: hidepid, ProtectProc= of systemd, other users and the
restrictions on processes that have changed their user are normal. So where the start time of a living process is not to
be seen, it is taken for the one that is meant, even if that one died and another got its pid: what the dead one held is
then free once that pid is, too.
"""

from __future__ import annotations

import errno
import os
from collections import namedtuple

from ..errors import KernelUnsupported
from . import _os
from .forks import in_child, settle

TYPE_CHECKING = False  # typing itself takes as long to import as all of this package
if TYPE_CHECKING:
    from typing import NamedTuple

__all__ = [
    "Identity",
    "boot_id",
    "command_of",
    "has_ended",
    "image",
    "is_dead",
    "me",
    "pid_namespace",
    "renew_image",
    "start_time",
]


if TYPE_CHECKING:

    class Identity(NamedTuple):
        pid: int
        start: int

else:
    Identity = namedtuple("Identity", "pid start")

Identity.__doc__ = (
    "A process for all time: pid, start time in clock ticks since boot (proc(5), field 22; see `alive.h`)."
)

_boot_id = b""


def boot_id() -> bytes:
    """Return the 16 bytes of the kernel's random boot id."""
    global _boot_id
    _boot_id = _boot_id or _read_boot_id()
    return _boot_id


def _read_boot_id() -> bytes:
    path = "/proc/sys/kernel/random/boot_id"
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        raise _no_proc(path, error) from None
    digits = text.strip().replace(b"-", b"").decode("ascii", "replace")
    if len(digits) != 32:
        raise _no_proc(path)
    return bytes.fromhex(digits)


def pid_namespace() -> int:
    """Return the inode of the calling process's pid namespace; pids mean nothing across two of them."""
    path = "/proc/self/ns/pid"
    try:
        return os.stat(path).st_ino
    except OSError as error:
        raise _no_proc(path, error) from None


def _no_proc(path: str, error: OSError | None = None) -> OSError:
    """Return the error for a file of the calling process's own in /proc that cannot be read."""
    if error is not None and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return error
    why = "it is empty, or another kind of filesystem" if error is None else error.strerror
    return KernelUnsupported(
        f"{path} cannot be read ({why}): without /proc it is unknown which processes are alive, so no mutex is made "
        "here. Mount it, "
        "in a chroot or container as well: mount -t proc proc /proc",
        name=path,
        errno=0 if error is None else error.errno,
    )


def start_time(pid: int) -> int | None:
    """Return the start time of a process in clock ticks since boot. None if it is not to be seen: it may well live.

    It is the same number in all time namespaces.
    """
    return _os.start_of(pid) or None


_images: dict[int, int] = {}


def image() -> int:
    """Return a random number for the program that the calling process runs; exec changes it, and so does fork."""
    settle()
    return _images.get(os.getpid()) or _images.setdefault(os.getpid(), int.from_bytes(os.urandom(4), "little"))


in_child(_images.clear)


def renew_image() -> None:
    """Have :func:`image` return another number from now on: what was named after this one is gone."""
    _images.pop(os.getpid(), None)


_mine: Identity | None = None
_is_stale = False


@in_child
def _doubt() -> None:
    global _is_stale
    _is_stale = True  # even where the pid is the same: a child of a child may have that of the first


def me() -> Identity:
    """Return the identity of the calling process."""
    global _mine, _is_stale
    settle()
    pid = os.getpid()
    if _mine is None or _is_stale or _mine.pid != pid:
        start = start_time(pid)
        if start is None:
            raise _unreadable_self()
        if _mine is not None:
            _note_restored(_mine)
        _mine, _is_stale = Identity(pid, start), False
    return _mine


def _unreadable_self() -> OSError:
    path = "/proc/self/stat"
    try:
        with open(path, "rb"):
            return _no_proc(path)
    except OSError as error:
        return _no_proc(path, error)


_restored = False  # the start times that this process knows of others may have been of another life


def _note_restored(known: Identity) -> None:
    """Note whether a process that this one or its parent knew to be itself began at another time than it had thought.

    So it is after it was restored from a checkpoint (CRIU).
    """
    global _restored
    now = None if known.pid not in (os.getpid(), os.getppid()) else start_time(known.pid)
    _restored = _restored or now not in (None, known.start)


def has_ended(pid: int, tid: int | None = None) -> bool:
    """Tell whether no process has that pid, or the one that has it has ended; or whether it has no thread ``tid``.

    For what was noted without a start time. Only for processes of this pid namespace; the caller checks that first.
    """
    state = _os.process_state(pid)
    if state == _os.CANNOT_ASK:
        return _is_zombie(pid)
    return state == _os.GONE or (tid not in (None, pid) and _os.thread_gone(pid, tid))


def is_dead(pid: int, start: int | None) -> bool:
    """Tell whether the process is proved dead: no such pid, a zombie, or another start time.

    A zombie is one whose threads have all ended. Where only the first one has, others still run.

    Only for processes of this boot and this pid namespace; the caller checks that first.

    Args:
        start: its start time, as :func:`start_time` told it; None if it was not to be seen.
    """
    if has_ended(pid):
        return True
    try:
        now = start_time(pid)
        if now is None or start is None or now == start or (now | start) & _os.START_OF_ITS_OWN:
            return False
        return _is_conclusive()
    except OSError:
        return False


def _is_conclusive() -> bool:
    """Whether start times that differ are those of two processes."""
    _note_restored(me())
    return not _restored and _is_proc_ours()


def _is_proc_ours() -> bool:
    """Whether the pids in /proc are those of this process's pid namespace."""
    try:
        with open("/proc/self/status", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return False
    # The pids of this process in the namespaces from that of /proc down to its own.
    pids = next((line.split()[1:] for line in lines if line.startswith(b"NSpid:")), [])
    return pids == [b"%d" % os.getpid()]


def _is_zombie(pid: int) -> bool:
    """Where the kernel cannot be asked whether a process has ended: whether its state is that of one that has."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return False
    # The command, in parentheses, may itself hold spaces and parentheses: count the fields from its end.
    fields = text[text.rindex(b")") + 2 :].split()
    return (fields[0] == b"X" or (fields[0] == b"Z" and int(fields[17]) <= 1)) and _is_proc_ours()


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
