"""Pools whose files were removed while processes still have them mapped: by systemd's RemoveIPC, ``rm``, a cleaner.

Nobody can come to such a pool by its name any more, and those who have it go on among themselves. That is right until
another pool of that name is made: then two processes could hold one name. So a daemon, before it opens or makes a pool,
looks for removed ones and ends every tenancy in them: all handles to them raise MutexDestroyed.

They are found by what the kernel tells of the mappings of this user's processes, and reached by the descriptor that
everyone who maps a pool segment keeps with it (proc(5): maps, fd).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ..base._os import above, owned
from ..core import _core
from ..core._core import Segment
from ..errors import LayoutMismatch, PagedPoolAllocFailed
from ..memory import shm

if TYPE_CHECKING:
    from .pool import Pool

__all__ = ["Mapped", "end_lost", "end_removed", "lost", "mapped", "segment_of"]

_LINE = re.compile(rb"^\S+ \S+ \S+ ([0-9a-f]+):([0-9a-f]+) (\d+) +(\S+) \(deleted\)$", re.MULTILINE)
_NAME = re.compile(r"/wdkm\.\d+\.[A-Za-z0-9][A-Za-z0-9_-]*\.p\d+", re.ASCII)


class Mapped(NamedTuple):
    """A removed segment that a process has mapped.

    Attributes:
        pid: the process. name: of the segment. inode: of its file.
        descriptor: where a descriptor of it is to be opened, None if the process has closed it.
    """

    pid: int
    name: str
    inode: int
    descriptor: str | None


def mapped(prefix: str) -> Iterator[Mapped]:
    """Yield the removed pool segments, with names that begin with ``prefix``, that processes of this user have.

    Not seen are processes in other pid namespaces, and those that the kernel lets nobody look into (prctl(2),
    PR_SET_DUMPABLE).
    """
    try:
        device = os.stat(shm.FOLDER).st_dev
    except FileNotFoundError:
        return  # who makes a pool is told so
    uid = os.geteuid()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            if os.stat(f"/proc/{entry}").st_uid != uid:
                continue
            with open(f"/proc/{entry}/maps", "rb") as file:
                maps = file.read()
        except OSError:
            continue
        found = {}
        for major, minor, inode, path in _LINE.findall(maps):
            name = os.fsdecode(path)[len(shm.FOLDER) :]
            if name.startswith(prefix) and _NAME.fullmatch(name) and _is(device, major, minor):
                found[int(inode)] = name
        if found:
            descriptors = _descriptors(entry, device, found)
            for number, name in found.items():
                yield Mapped(int(entry), name, number, descriptors.get(number))


def _is(device: int, major: bytes, minor: bytes) -> bool:
    """Whether a file is in the shared memory of this process; a container has one of its own."""
    return (os.major(device), os.minor(device)) == (int(major, 16), int(minor, 16))


def _descriptors(pid: str, device: int, inodes: dict[int, str]) -> dict[int, str]:
    """Where the descriptors are that a process has of files, by inode."""
    found = {}
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{number}"
            try:
                status = os.stat(path)
            except OSError:
                continue
            if status.st_dev == device and status.st_ino in inodes:
                found[status.st_ino] = path
    except OSError:
        pass
    return found


def segment_of(found: Mapped) -> Segment | None:
    """Map a removed segment as well; None where it cannot be reached, or is none of ours to read."""
    if found.descriptor is None:
        return None
    try:
        fd = owned(above(os.open(found.descriptor, os.O_RDWR | os.O_CLOEXEC)))
    except OSError:
        return None
    try:
        segment = Segment.of_the_dead(found.name, found.name[: found.name.rindex(".")], fd)
    except (LayoutMismatch, PagedPoolAllocFailed):
        return None
    return segment if os.fstat(segment.descriptor).st_ino == found.inode else None


def end_removed(prefix: str) -> tuple[int, list[Mapped]]:
    """End every tenancy in the removed segments of the pool at ``prefix``. For who has the claim on it.

    Returns:
        How many tenancies that were, and what could not be reached.
    """
    ended = 0
    done: set[int] = set()
    missed: dict[int, Mapped] = {}
    for found in mapped(prefix + ".p"):
        if found.inode in done:
            continue
        segment = segment_of(found)
        if segment is None:
            missed[found.inode] = found
            continue
        segment.flag_destroyed()  # so that nobody allocates in it, either
        ended += _core.vacate_all(segment)[0]
        done.add(found.inode)
    return ended, [found for inode, found in missed.items() if inode not in done]


def lost(pool: Pool) -> Segment | None:
    """Return the first segment of a pool whose file was removed (or replaced), None if all are there."""
    for segment in pool.segments:
        if not segment.has_name():
            return segment
    return None


def end_lost(pool: Pool) -> int:
    """End what lives in the first lost segment of a pool, and behind it, where no numbers lead any more.

    The files are removed as far as they are this pool's: another may have been made since. Returns how many mutexes
    that was the end of.
    """
    first = lost(pool)
    if first is None:
        return 0
    ended = 0
    first.flag_destroyed()
    for segment in reversed(pool.segments[first.number :]):
        count, with_data = _core.vacate_all(segment)
        ended += count
        for index in with_data:
            _core.reclaim(segment, index)
        with contextlib.suppress(OSError):
            if segment.has_name():
                shm.unlink(segment.name)
    return ended
