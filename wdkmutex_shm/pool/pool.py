"""A pool: the segments of one allocator, and the life of the slots in them.

There is one writer per pool: the daemon for an instance, each process for its anonymous mutexes. Whatever a pool knows
it can learn again from its segments.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from itertools import repeat
from typing import TYPE_CHECKING

from ..base.layout import HEADER_BYTES, SLOT_BYTES
from ..base.names import data_ident, pool_segment
from ..base.records import PoolStats, SlotRef
from ..core import _core
from ..core._core import Segment
from ..errors import LayoutMismatch, MutexDestroyed, PagedPoolAllocFailed, SegmentRefused
from ..memory import in_use, shm

if TYPE_CHECKING:
    from ..base.records import SlotInfo, TypeTag

__all__ = ["Pool"]

_MOST_SLOTS = 16384
_RESIDENT_BYTES = 64 << 20
_TOUCHES = 4096  # the kernel maps up to 64 KiB around each


class Pool:
    """The allocator of one pool. One thread uses it; the private pool, which is used by all, sees to that itself.

    Attributes:
        prefix: what the names of its segments begin with.
        segments: the pool segments by number.
    """

    def __init__(self, prefix: str, *, first_slots: int = 1024) -> None:
        """Start with no segment at all; :meth:`open` is the usual way in."""
        self.prefix = prefix
        self.segments: list[Segment] = []
        self._by_name: dict[str, Segment] = {}
        self._first_slots = first_slots
        self._free: list[tuple[Segment, int]] = []
        self._quarantine: list[tuple[Segment, int]] = []
        self._used = 0
        self._bytes = 0
        self._touched = 0

    @classmethod
    def open(cls, prefix: str, *, create: bool = True) -> Pool:
        """Recover the pool at ``prefix`` from its segments; make its first segment if there is none and ``create``.

        A segment that its maker did not live to publish is removed. A pool whose destruction was begun is destroyed
        to its end first.

        Raises:
            FileNotFoundError: there is no pool, and it was not to be made.
            PagedPoolAllocFailed: no room. LayoutMismatch, SegmentRefused: its segments are not ours to use.
        """
        self = cls(prefix)
        self._recover()
        if self.segments and self.segments[0].destroyed:
            self.destroy()
        if not self.segments and not create:
            raise FileNotFoundError(f"there is no pool at {prefix}")
        self.begin()
        return self

    def _recover(self) -> None:
        names = {name for name in shm.listing(self.prefix + ".p") if name[len(self.prefix) + 2 :].isdigit()}
        number = 0
        while (name := pool_segment(self.prefix, number)) in names:
            try:
                segment = Segment.attach(name, self.prefix)
            except LayoutMismatch as error:
                if error.field not in ("magic", "size") or (error.found not in (0, None) and error.field == "magic"):
                    raise
                # Its maker died before it published it; nobody can have a tenant in it.
                shm.unlink(name)
                break
            except SegmentRefused:
                if number == 0:
                    raise
                break  # another user's, where the pool has come to its end
            self._add(segment)
            number += 1
        for name in names - {segment.name for segment in self.segments}:
            self._remove_stray(name)
        top = 0
        for segment in self.segments:
            fresh, used = _core.vacant(segment)
            top = max(top, _core.top_serial(segment))
            self._free.extend((segment, index) for index in fresh)
            self._quarantine.extend((segment, index) for index in used)
            self._used += segment.count - len(fresh) - len(used)
            self.trim(segment)
        self.reclaim()
        if self.segments:
            self.segments[0].raise_serial(top)

    def _remove_stray(self, name: str) -> None:
        """Remove a segment to which the numbers do not lead: somebody removed one before it, and the pool with it.

        One of another user is nothing to the pool, and must not keep a daemon from starting.
        """
        try:
            segment = Segment.attach(name, self.prefix)
            for index, generation, _, _ in _core.tenants(segment):
                _core.vacate(segment, index, generation)
        except SegmentRefused:
            return
        except (LayoutMismatch, FileNotFoundError):
            pass
        shm.unlink(name)

    def _add(self, segment: Segment) -> None:
        self._by_name[segment.name] = segment
        self.segments.append(segment)
        self._bytes += segment.size_bytes

    def _next_number(self) -> int:
        return len(self.segments)

    def _grow(self) -> None:
        total = sum(segment.count for segment in self.segments)
        slots = max(self._first_slots, min(_MOST_SLOTS, total))
        maker = os.getpid()
        while True:
            name = pool_segment(self.prefix, self._next_number())
            try:
                segment = Segment.create(name, self.prefix, slots)
                self._add(segment)
                break
            except PagedPoolAllocFailed:
                # Where little is left, a smaller segment may still fit.
                if slots <= 64:
                    raise
                slots = max(64, slots // 4)
            except BaseException as error:
                # A signal handler may raise anywhere; a segment that was not added must not stay.
                if name not in self._by_name and not isinstance(error, (FileExistsError, SegmentRefused)):
                    shm.unmake(name, maker)
                raise
        for full in self.segments[-2:-1]:
            self.trim(full)
        self._free.extend(zip(repeat(segment), range(segment.count - 1, -1, -1)))

    def begin(self) -> None:
        """Make the first segment if there is none."""
        if not self.segments:
            self._grow()

    def reclaim(self) -> int:
        """Take back what can leave quarantine. Returns how many slots cannot."""
        # Only steps that are whole by themselves: in a private pool, finalizers put slots here at any moment.
        held: list[tuple[Segment, int]] = []
        for _ in range(len(self._quarantine)):
            segment, index = self._quarantine.pop()
            if _core.reclaim(segment, index):
                self._free.append((segment, index))
            else:
                held.append((segment, index))
        self._quarantine.extend(held)
        return len(held)

    def allocate(
        self, name: bytes, kind: int, tag: TypeTag, payload: bytes, data: tuple[int, int] | None = None
    ) -> SlotRef:
        """Make a mutex and return where it lives.

        Args:
            name: checked bytes of its name, empty for an anonymous one.
            kind: one of ``names.KIND_*``. tag: T, as ``codec.tag``.
            payload: T's msgpack bytes, at most ``names.INLINE_BYTES``, unless
            data: (id, length) of the data segment that holds them, which the mutex then owns.

        Raises:
            PagedPoolAllocFailed: no room for another segment; nothing has changed.
            MutexDestroyed: the files of this pool were removed, and another has taken its place.
            SegmentRefused: another user has taken the name of the next segment; nothing has changed.
        """
        code, hashed, label = tag
        ident, length = data or (0, 0)
        self._must_stand()
        if not self._free:
            self.reclaim()
        while True:
            serial = self.next_serial()
            place = _core.occupy_from(self._free, name, kind, code, hashed, label, payload, ident, length, serial)
            if place is not None:
                break
            self._grow()
        segment, index, generation = place
        self._used += 1
        return SlotRef(segment.name, segment.nonce, index, generation)

    def next_serial(self) -> int:
        """The number of the next mutex, in the order of the pool."""
        return self.segments[0].take_serials(1) if self.segments else 0

    def allocate_many(
        self, names: list[bytes], kind: int, tags: list[TypeTag], which: list[int], payloads: list[bytes]
    ) -> list[int]:
        """Make mutexes of one kind, all of them or none. Each T fits into its slot.

        Args:
            names: checked bytes of their names.
            kind: one of ``names.KIND_*``. tags: T of all of them. which: index into ``tags`` for each.
            payloads: each T's msgpack bytes.

        Returns:
            Where each lives, as segment number << 24 | slot.

        Raises:
            PagedPoolAllocFailed: no room for all of them.
        """
        self._must_stand()
        if len(self._free) < len(names):
            self.reclaim()
        while len(self._free) < len(names):
            self._grow()
        serial = self.segments[0].take_serials(len(names))
        places = _core.occupy_many(self._free, names, kind, tags, which, payloads, serial)
        self._used += len(names)
        return places

    def mapped(self, name: str) -> Segment:
        """Return the segment of the pool that has this name."""
        return self._by_name[name]

    def _must_stand(self) -> None:
        """Raise MutexDestroyed if another pool has taken the place of this one, whose files were removed."""
        if self.segments and self.segments[0].destroyed:
            raise MutexDestroyed(
                f"the files of the pool {self.prefix} were removed, together with its mutexes; try again in a moment",
                name=self.prefix,
            )

    def segment_of(self, ref: SlotRef) -> Segment:
        """Return the segment that a place allocated here is in."""
        return self._by_name[ref.segment]

    def free(self, ref: SlotRef) -> bool:
        """Destroy a mutex: handles to it raise MutexDestroyed from now on. False if it was destroyed already.

        A slot whose lock is held goes into quarantine, and its memory is reused after the release.
        """
        segment = self._by_name.get(ref.segment)
        if segment is None or segment.nonce != ref.nonce:
            return False
        return self.free_slot(segment, ref.slot, ref.generation)

    def free_slot(self, segment: Segment, index: int, generation: int) -> bool:
        """As :meth:`free`."""
        if not _core.vacate(segment, index, generation):
            return False
        self._used -= 1
        if _core.reclaim(segment, index):
            self._free.append((segment, index))
        else:
            self._quarantine.append((segment, index))
        return True

    def note_freed(self, segment: Segment, index: int) -> None:
        """Take back a slot whose tenancy its own holder ended."""
        self._used -= 1
        if _core.reclaim(segment, index):
            self._free.append((segment, index))
        else:
            self._quarantine.append((segment, index))

    def tenants(self) -> Iterator[tuple[bytes, SlotRef, int]]:
        """Yield (name, where, serial) of every mutex in the pool."""
        for segment in self.segments:
            for index, generation, serial, name in _core.tenants(segment):
                yield name, SlotRef(segment.name, segment.nonce, index, generation), serial

    def info(self, ref: SlotRef) -> SlotInfo | None:
        """Return what the mutex tells without its lock, or None when it is gone."""
        from .slot_info import info_of

        segment = self._by_name.get(ref.segment)
        if segment is None or segment.nonce != ref.nonce:
            return None
        return info_of(segment, ref.slot, ref.generation)

    def look(self) -> int:
        """Housekeeping: reclaim what left quarantine, stamp the locks that are held. Returns slots in quarantine."""
        for segment in self.segments:
            self.look_at(segment)
        return self.reclaim()

    def look_at(self, segment: Segment) -> set[int]:
        """Stamp the locks of a segment that are held. Returns the ids of the data segments of its mutexes."""
        _core.stamp_holds(segment)
        found = _core.references(segment)
        self.trim(segment)
        return found

    def trim(self, segment: Segment) -> None:
        """Let the pages of a segment go that were looked at, where all of them would take too much memory."""
        if self._bytes > _RESIDENT_BYTES:
            segment.trim()

    def touched(self, slots: int) -> None:
        """Count slots that were looked at, here and there; after enough of them, let go of the pages of all."""
        self._touched += slots
        if self._touched > _TOUCHES:
            self._touched = 0
            for segment in self.segments:
                self.trim(segment)

    def references(self) -> set[int]:
        """Return the ids of the data segments that belong to mutexes of the pool."""
        found: set[int] = set()
        for segment in self.segments:
            found |= _core.references(segment)
        return found

    def stats(self) -> PoolStats:
        """Return the pool's totals."""
        return PoolStats(
            segments=len(self.segments),
            slots=sum(segment.count for segment in self.segments),
            used=self._used,
            quarantined=len(self._quarantine),
            pool_bytes=sum(HEADER_BYTES + segment.count * SLOT_BYTES for segment in self.segments),
            data_bytes=shm.size_of(self.prefix + ".d"),
        )

    def is_replaced(self) -> bool:
        """Whether another pool has the name of this one: the data segments that are found now are that one's."""
        first = self.segments[0] if self.segments else None
        return first is not None and not first.has_name() and os.path.lexists(shm.FOLDER + first.name)

    def destroy(self) -> int:
        """Destroy every mutex and remove every segment of the pool. Returns how many mutexes there were.

        Killed half-way, the next :meth:`open` goes on with it.
        """
        if not self.segments:
            return 0
        self.segments[0].flag_destroyed()
        destroyed = 0
        for segment in self.segments:
            ended, with_data = _core.vacate_all(segment)
            destroyed += ended
            for index in with_data:
                _core.reclaim(segment, index)
            self.trim(segment)
        # What is left belongs to mutexes whose lock is held: the holder may be reading it, so only the names go.
        left = [name for name in shm.listing(self.prefix + ".d") if data_ident(self.prefix, name) is not None]
        if self.is_replaced():
            left = []
        for name in (*left, *(segment.name for segment in reversed(self.segments) if segment.has_name())):
            # A name that cannot be removed has been put there by somebody else. It must not keep the rest.
            with contextlib.suppress(OSError):
                shm.unlink(name)
        self.segments.clear()
        self._by_name.clear()
        self._free.clear()
        self._quarantine.clear()
        self._used = self._bytes = 0
        return destroyed

    def set_server(self, pid: int, socket_path: str) -> None:
        """Note in the pool who serves it and where, for clients with another runtime folder."""
        self.segments[0].set_server(pid, os.fsencode(socket_path))

    @staticmethod
    def writer_of(prefix: str) -> int | None:
        """Return the pid of the living daemon that has claimed the pool, None if none has or its pid means nothing."""
        try:
            fd = shm.open_segment(pool_segment(prefix, 0))
        except FileNotFoundError:
            return None
        try:
            return (Pool.server_of(prefix) or (None,))[0] if in_use.is_claimed(fd) else None
        finally:
            fd.close()

    @staticmethod
    def server_of(prefix: str) -> tuple[int, str] | None:
        """Return (pid, socket path) of the daemon that last served the pool, or None where there is no pool."""
        try:
            return Segment.attach(pool_segment(prefix, 0), prefix).server
        except (FileNotFoundError, LayoutMismatch):
            return None
