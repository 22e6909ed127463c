"""All mutexes of an instance, or the anonymous ones of this process, in one pass over shared memory.

No lock is taken, the daemon is not asked, and nothing is waited for. Each mutex is as it was at one instant, not all at
the same one; one that lives during the whole pass is in it once.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from operator import attrgetter
from typing import TypeVar

from ..base import identity
from ..base.layout import HEADER_BYTES, LAYOUT, SLOT_BYTES
from ..base.names import KIND_WORDS, instance_prefix, pool_segment
from ..base.records import Holder, MutexInfo, Statistics
from ..core._core import Segment
from ..errors import GrtIsNull, MutexDestroyed, SegmentRefused
from ..memory import shm
from ..pool import private
from . import waiters
from ._pass import look
from .holder import Texts

__all__ = ["anonymous_snapshot", "of_instance"]

V = TypeVar("V")

_HEAD = struct.Struct("=Q6IQ16sQQ2I")
_MAGIC = struct.unpack("=Q", b"WKMXSHM1")[0]
_PASSES = 8


class _Moved(Exception):
    """The pool is not the one that the pass began with."""


def _header(fd: int, name: str, prefix: str) -> tuple[int, bool, int]:
    """The nonce of an open segment, whether its pool is being destroyed, and how many slots it has.

    Raises:
        FileNotFoundError: its maker has not published it.
        LayoutMismatch, OtherPidNamespace, SegmentRefused: as for :meth:`Segment.attach`.
    """
    head = os.pread(fd, _HEAD.size, 0)
    if len(head) < _HEAD.size or head[:8] == bytes(8):
        raise FileNotFoundError(name)
    magic, layout, _, slot, slots, word, _, namespace, boot, nonce, _, _, destroyed = _HEAD.unpack(head)
    if (
        (magic, layout, slot, word) != (_MAGIC, LAYOUT, SLOT_BYTES, struct.calcsize("P"))
        or (namespace, boot) != (identity.pid_namespace(), identity.boot_id())
        or os.fstat(fd).st_size < HEADER_BYTES + slots * SLOT_BYTES
    ):
        Segment.attach(name, prefix)  # says what is wrong
        raise _Moved
    return nonce, destroyed != 0, slots


class _Pass:
    """What one pass has found so far."""

    def __init__(self) -> None:
        self._texts = Texts()
        self._waits = waiters.by_tenant(self._texts)
        self.found: list[MutexInfo] = []
        self._serials: list[int] = []

    def _holder(self, pid: int, tid: int, held_for: float, alive: bool) -> Holder:
        return Holder(pid, tid, *self._texts.of(pid, tid), held_for, alive)

    def look(self, fd: int, name: str, prefix: str) -> tuple[int, bool]:
        """Look at an open segment. Returns what :func:`_header` does."""
        nonce, destroyed, slots = _header(fd, name, prefix)
        waits = self._waits.get(nonce, {})
        found, serials = self.found, self._serials
        look(fd, slots, name, prefix.encode(), MutexInfo, Statistics, KIND_WORDS, waits, self._holder, found, serials)
        return nonce, destroyed

    def named(self) -> list[MutexInfo]:
        """Those that were found, sorted. Of two of one name, the older one is about to go: it was overwritten."""
        if len({info.name for info in self.found}) < len(self.found):
            pairs = list(zip(self.found, self._serials, strict=True))
            newest: dict[str, int] = {}
            for info, serial in pairs:
                if info.state != "damaged":  # else it may not be a name at all
                    newest[info.name] = max(serial, newest.get(info.name, 0))
            self.found = [info for info, serial in pairs if info.state == "damaged" or serial == newest[info.name]]
        return sorted(self.found, key=attrgetter("name"))


def _null(instance: str, why: str) -> GrtIsNull:
    return GrtIsNull(
        f"there is no Grt of instance {instance!r}: {why}; call Grt.init({instance!r}) or: wdkmutex-daemon start "
        f"--instance {instance}",
        name=instance,
        instance=instance,
    )


def of_instance(instance: str) -> list[MutexInfo]:
    """Return all mutexes of an instance, sorted by name; with its daemon up or down.

    Raises:
        GrtIsNull: the instance has no pool, or it is being destroyed.
        LayoutMismatch, OtherPidNamespace, SegmentRefused: its segments are not ours to read.
        PagedPoolAllocFailed: no descriptor is free.
    """
    prefix = instance_prefix(instance)
    for _ in range(_PASSES):
        try:
            return _pass_over(instance, prefix)
        except (_Moved, MutexDestroyed):
            continue
    raise _null(instance, "it is destroyed and made again all the time")


def _pass_over(instance: str, prefix: str) -> list[MutexInfo]:
    current = _Pass()
    first = _at(prefix, 0, current.look)
    if first is None:
        raise _null(instance, "it was not started, or was destroyed")
    number = 1
    while _at(prefix, number, current.look) is not None:
        number += 1
    last = _at(prefix, 0, _header)
    if first[1] or last is None or last[1]:
        raise _null(instance, "it is being destroyed")
    if last[0] != first[0]:
        raise _Moved
    return current.named()


def _at(prefix: str, number: int, look_at: Callable[[int, str, str], V]) -> V | None:
    """Look at a segment of a pool with one of the functions above. None where the pool has ended."""
    name = pool_segment(prefix, number)
    try:
        fd = shm.open_segment(name)
    except FileNotFoundError:
        return None
    except SegmentRefused:
        if number == 0:
            raise
        return None  # another user's, where the pool has come to its end
    try:
        return look_at(fd, name, prefix)
    except FileNotFoundError:
        return None
    finally:
        fd.close()


def anonymous_snapshot() -> list[MutexInfo]:
    """Return the anonymous mutexes and boxes that this process made and that still exist, as :meth:`Grt.snapshot` does.

    Those that it was handed by other processes are not among them: each process has a pool of its own, and knows of
    another's only the mutexes that it has handles to.
    """
    current = _Pass()
    for segment in private.segments_now():
        fd = segment.descriptor
        if fd >= 0:
            current.look(fd, segment.name, segment.prefix)
    return current.found
