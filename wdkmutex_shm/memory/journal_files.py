"""Journals of processes that publish several mutexes as one: made, read by those who take over, removed.

A journal is named after the process that made it, so that a note in a slot, which holds that process's pid and start
time, leads to it (with the pid namespace that the slot's segment belongs to). It is removed when its process ends;
that of a killed process by whoever sweeps, once it is undecided (a note without a journal counts as undecided) or no
slot has a note that leads to it any more. Its maker has it mapped, and with that a shared flock(2) on it, which tells
those in other pid namespaces that it lives.
"""

from __future__ import annotations

import atexit
import os
import struct
import sys
import time

from ..base import identity
from ..base._os import Descriptor
from ..base.forks import in_child, settle
from ..base.layout import HEADER_BYTES, JOURNAL_MAGIC, LAYOUT, NOTE, NOTE_COMMIT, NOTE_PID, PENDING_AT, SLOT_BYTES
from ..base.names import process_prefix, user_prefix
from ..errors import KernelUnsupported, LayoutMismatch, PagedPoolAllocFailed, SegmentRefused
from . import in_use, shm

TYPE_CHECKING = False  # typing itself takes as long to import as all of this package
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["decided", "make", "name_of", "no_room", "sweep", "user_of"]

_HEADER = struct.Struct("=QQQQII16s")
_NAME = r"/wdkm\.\d+\.@(\d+)\.(\d+)\.([0-9a-f]{8,})\.j"
_POOL = r"/wdkm\.\d+\.[^/]+\.p\d+"
_SLOTS_AT_ONCE = 4096
_RARELY = 50
"""A search for notes is repeated after this many times as long as it took."""

_next_search: dict[str, float] = {}


def user_of(prefix: str) -> str:
    """Return what the names of a pool's user's segments begin with."""
    return prefix[: prefix.index(".", prefix.index(".") + 1) + 1]


def _note_of(pid: int, start: int) -> int:
    return NOTE | pid << NOTE_PID | start


def name_of(note: int, user: str, namespace: int) -> str:
    """Return the name of the journal that a note of that user's, in a segment of that pid namespace, leads to."""
    pid = (note & (1 << NOTE_COMMIT) - 1) >> NOTE_PID
    return process_prefix(pid, note & (1 << NOTE_PID) - 1, namespace, user) + ".j"


def no_room(user: str, code: int) -> PagedPoolAllocFailed:
    """Return the error for the journal of this process, which could not be mapped."""
    return shm.no_room(f"{user}@{os.getpid()}.*.j", _HEADER.size, OSError(code, os.strerror(code)))


def make(user: str, forget: Callable[[], object]) -> tuple[int, Descriptor]:
    """Make the journal of this process and return the note that leads to it, and its descriptor.

    Args:
        user: what the names of its user begin with. forget: called as the journal is removed, to unmap it.

    Raises:
        PagedPoolAllocFailed: no room. SegmentRefused: this process has changed its user since it attached.
    """
    pid, start = identity.me()
    note = _note_of(pid, start)
    try:
        namespace = identity.pid_namespace()
        header = (0, 0, start, namespace, pid, LAYOUT, identity.boot_id())
    except KernelUnsupported:
        raise
    except OSError as error:  # no descriptor is free to read /proc with
        raise no_room(user, error.errno or 0) from None
    name = name_of(note, user, namespace)
    try:
        fd = shm.create(name, _HEADER.size)
    except FileExistsError:
        # Of this very process, before an exec, or of an attempt that was interrupted: nobody can have a note of it.
        fd = shm.open_segment(name)
    try:
        in_use.share(fd, name)
        found = _HEADER.unpack(os.pread(fd, _HEADER.size, 0).ljust(_HEADER.size, b"\0"))
        if found[0] and found[2:] != header[2:]:
            raise LayoutMismatch(f"journal {name} is of another version", name=name, field="journal")
        os.posix_fallocate(fd, 0, _HEADER.size)
        os.pwrite(fd, _HEADER.pack(*header), 0)
        os.pwrite(fd, JOURNAL_MAGIC.to_bytes(8, sys.byteorder), 0)
        _at_end(forget)
    except BaseException:
        fd.close()
        raise
    return note, fd


def _no_journal() -> None:
    """There is none to unmap yet."""


_registered: set[int] = set()
_forget: Callable[[], object] = _no_journal
in_child(_registered.clear)


def _at_end(forget: Callable[[], object]) -> None:
    global _forget
    settle()
    _forget = forget
    pid = os.getpid()
    if pid in _registered:
        return
    _registered.add(pid)
    atexit.register(_close)
    if "multiprocessing.util" in sys.modules:
        # Children of multiprocessing leave through os._exit, which runs these and not atexit.
        sys.modules["multiprocessing.util"].Finalize(None, _close, exitpriority=0)


def _close() -> None:
    """Remove the journal of this process. A thread that still publishes makes it again."""
    try:
        note = _note_of(*identity.me())
        _forget()
        try:
            shm.unlink(name_of(note, user_prefix(), identity.pid_namespace()))
        finally:
            _forget()  # a thread may have opened it again before it lost its name
    except OSError:
        pass


def decided(note: int, user: str, namespace: int) -> bool:
    """Tell whether what the dead maker of a note was publishing is published. A journal that is gone never was decided.

    Args:
        note: from a slot. user: what the names of its pool's user begin with. namespace: that of its segment.

    Raises:
        PagedPoolAllocFailed: no descriptor is free. SegmentRefused, LayoutMismatch: the journal is not one of ours.
    """
    name = name_of(note, user, namespace)
    try:
        fd = shm.open_segment(name)
    except FileNotFoundError:
        return False
    try:
        raw = os.pread(fd, _HEADER.size, 0)
    finally:
        fd.close()
    magic, word, *_, layout, _ = _HEADER.unpack(raw.ljust(_HEADER.size, b"\0"))
    if magic and (magic, layout) != (JOURNAL_MAGIC, LAYOUT):
        raise LayoutMismatch(f"journal {name} is of another version", name=name, field="layout", found=layout)
    return bool(magic and word)


def sweep(names: list[str] | None = None) -> list[str]:
    """Remove the journals of dead processes that nobody needs, of ``names``, else of all. Returns their names."""
    import re  # whoever sweeps has it

    removed = []
    for name in shm.listing(user_prefix() + "@") if names is None else names:
        match = re.fullmatch(_NAME, name, re.ASCII)
        if match is None:
            continue
        ours = int(match[3], 16) == identity.pid_namespace()
        if ours and not identity.is_dead(int(match[1]), int(match[2])):
            continue
        if _unneeded(name, ours):
            _next_search.pop(name, None)
            if shm.unlink(name):
                removed.append(name)
    return removed


def _unneeded(name: str, ours: bool) -> bool:
    """Whether a journal leads nobody any more: of a dead process, or (not ``ours``) of one in another pid namespace."""
    try:
        fd = shm.open_segment(name)
    except (FileNotFoundError, SegmentRefused, PagedPoolAllocFailed):
        return False
    try:
        if not ours and not in_use.is_left(fd):
            return False
        raw = os.pread(fd, _HEADER.size, 0)
    finally:
        fd.close()
    magic, word, start, _, pid, _, _ = _HEADER.unpack(raw.ljust(_HEADER.size, b"\0"))
    if not magic or not word:
        return True
    import re

    began = time.monotonic()
    if began < _next_search.get(name, began):
        return False
    note = _note_of(pid, start)
    wanted = any(_has_note(pool, note) for pool in shm.listing(user_prefix()) if re.fullmatch(_POOL, pool, re.ASCII))
    _next_search[name] = began + _RARELY * (time.monotonic() - began)
    return not wanted


def _has_note(pool: str, note: int) -> bool:
    """Whether any slot of a pool segment has a note of a journal."""
    notes = {(note | bit << NOTE_COMMIT).to_bytes(8, sys.byteorder) for bit in (0, 1)}
    try:
        fd = shm.open_segment(pool)
    except FileNotFoundError:
        return False
    except (SegmentRefused, PagedPoolAllocFailed):
        return True
    try:
        offset = HEADER_BYTES
        while True:
            raw = os.pread(fd, _SLOTS_AT_ONCE * SLOT_BYTES, offset)
            if not raw:
                return False
            if any(raw[at : at + 8] in notes for at in range(PENDING_AT, len(raw), SLOT_BYTES)):
                return True
            offset += len(raw)
    finally:
        fd.close()
