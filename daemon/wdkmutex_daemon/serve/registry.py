"""The names of an instance: which tenant of which slot each one means.

The index is only a copy. What counts is in the slots, and the index is rebuilt from them whenever a daemon starts. It
is compact, because an instance may have a million names: one int for each.
"""

from __future__ import annotations

from typing import Any

from wdkmutex_shm.base.records import SlotRef
from wdkmutex_shm.core import _core
from wdkmutex_shm.core._core import Segment
from wdkmutex_shm.errors import GrtIsEmpty, KeyExists, KeyNotFound
from wdkmutex_shm.memory import data_segments
from wdkmutex_shm.pool.pool import Pool
from wdkmutex_shm.protocol.bulk import RegisterMany

__all__ = ["Registry"]

_SLOT_BITS = 24
_SLOT_MASK = (1 << _SLOT_BITS) - 1


class Registry:
    """Names, and the pool that their mutexes live in. Not thread-safe: it belongs to the daemon's loop.

    Args:
        pool: the instance's pool, of which this process is the only writer.
        instance: name of the instance, for messages.

    Attributes:
        version: another number whenever there are other names than before.
    """

    def __init__(self, pool: Pool, instance: str) -> None:
        self.pool = pool
        self.instance = instance
        self.version = 0
        self._places: dict[bytes, int] = {}
        self._recover()

    def __len__(self) -> int:
        return len(self._places)

    def _recover(self) -> None:
        """Index what lives in the slots.

        A daemon that was killed while it replaced a mutex leaves two tenants of one name: the one that was registered
        later is the name's, and the other is freed now, as it was about to be.
        """
        places = self._places
        for segment in self.pool.segments:
            base = segment.number << _SLOT_BITS
            for slot, generation, serial, name in _core.tenants(segment):
                known = places.get(name)
                if known is None:
                    places[name] = base | slot
                    continue
                other, index = self._slot(known)
                if serial < _core.serial_of(other, index):
                    self.pool.free_slot(segment, slot, generation)
                else:
                    places[name] = base | slot
                    self.pool.free_slot(other, index, _core.generation_of(other, index))
            self.pool.trim(segment)

    # --- looking up

    def _slot(self, place: int) -> tuple[Segment, int]:
        return self.pool.segments[place >> _SLOT_BITS], place & _SLOT_MASK

    def _find(self, name: bytes) -> SlotRef | None:
        place = self._places.get(name)
        if place is None:
            return None
        segment, slot = self._slot(place)
        generation = _core.generation_of(segment, slot)
        if generation % 2:
            return SlotRef(segment.name, segment.nonce, slot, generation)
        del self._places[name]  # its tenancy ended without us: the mutex is gone
        self.version += 1
        self.pool.note_freed(segment, slot)
        return None

    def find(self, name: bytes) -> SlotRef:
        """The tenant that a name means.

        Raises:
            KeyNotFound: no mutex has that name. GrtIsEmpty: none has any.
        """
        self.pool.touched(1)
        ref = self._find(name)
        if ref is not None:
            return ref
        text = name.decode("utf-8", "replace")
        if not self._places:
            raise GrtIsEmpty(
                f"the Grt of instance {self.instance!r} has no mutex at all, so none named {text!r}; register it",
                name=text,
                instance=self.instance,
            )
        raise KeyNotFound(
            f"no mutex of instance {self.instance!r} has the name {text!r}; Grt.names() or wdkmutex-daemon list shows "
            "those there are",
            name=text,
            instance=self.instance,
        )

    def find_many(self, names: list[bytes]) -> tuple[bytes, set[int]]:
        """Where the mutexes of many names live.

        Returns:
            The words of :class:`wdkmutex_shm.protocol.bulk.Places`, and the numbers of the segments in them.
        """
        self.pool.touched(len(names))
        found: list[int | None] = list(map(self._places.get, names))
        words, numbers, gone = _core.locate_tenants(self.pool.segments, found)
        for index in gone:
            self._find(names[index])
        return words, numbers

    def names(self) -> list[bytes]:
        """All names, in no order that means anything."""
        return list(self._places)

    # --- changing

    def register(
        self,
        name: bytes,
        kind: int,
        mode: str,
        tag: tuple[int, int, bytes],
        payload: bytes,
        staged: tuple[int, int] | None,
    ) -> tuple[SlotRef, bool]:
        """Give a name a mutex.

        The new mutex lives before the old one is freed: killed in between, a daemon leaves both, never none.

        Args:
            name: as UTF-8.
            kind: one of the ``KIND_*`` numbers.
            mode: one of :data:`wdkmutex_shm.protocol.messages.MODES`.
            tag: T's code, hash and label.
            payload: the encoded first T, empty if it is staged.
            staged: id and length (bytes) of the data segment to adopt, else None.

        Returns:
            Where the name's mutex lives, and whether it was made now.

        Raises:
            KeyExists: mode is ``checked`` and the name is taken.
            PagedPoolAllocFailed: no room; nothing has changed.
            ProtocolError: the data segment is not there, too short, or in use.
        """
        old = self._find(name)
        if old is not None:
            if mode == "get_or_register":
                return old, False
            if mode == "checked":
                text = name.decode("utf-8", "replace")
                raise KeyExists(
                    f"a mutex of instance {self.instance!r} already has the name {text!r}; get it with Grt.get_*, or "
                    "replace it with an unchecked registration",
                    name=text,
                    instance=self.instance,
                )
        if staged is not None:
            data_segments.adopt(self.pool.prefix, *staged)
        ref = self.pool.allocate(name, kind, tag, payload, staged)
        self._places[name] = self.pool.segment_of(ref).number << _SLOT_BITS | ref.slot
        if old is not None:
            self._free(self.pool.segment_of(old), old.slot)
        else:
            self.version += 1
        return ref, True

    def register_many(self, request: RegisterMany, names: list[bytes]) -> tuple[bytes, set[int]]:
        """As :meth:`register` for each of the names, but nothing is changed before all of them are known to succeed.

        Args:
            request: which mutexes.
            names: theirs, as UTF-8.

        Returns:
            As :meth:`find_many`.

        Raises:
            KeyExists, PagedPoolAllocFailed: nothing has changed.
        """
        olds = {name: place for name in names if (place := self._places.get(name)) is not None and self._find(name)}
        if olds and request.mode == "checked":
            first = next(iter(olds)).decode()
            raise KeyExists(
                f"{len(olds)} of {len(names)} names are taken in instance {self.instance!r} already, such as "
                f"{first!r}; get them with Grt.get_many, or replace them with an unchecked registration",
                name=first,
                instance=self.instance,
            )
        if olds and request.mode == "get_or_register":
            new = [index for index, name in enumerate(names) if name not in olds]
            which, payloads = [request.which[index] for index in new], [request.payloads[index] for index in new]
            made = [names[index] for index in new]
            olds = {}
        else:
            made, which, payloads = names, request.which, request.payloads
        places = self.pool.allocate_many(made, request.kind, request.tags, which, payloads)
        self._places.update(zip(made, places, strict=True))
        self.version += 1
        for place in olds.values():
            self._free(*self._slot(place))
        return self.find_many(names)

    def _free(self, segment: Segment, slot: int) -> None:
        """Free what a name meant until now; its own holder may have ended it just now."""
        generation = _core.generation_of(segment, slot)
        if not self.pool.free_slot(segment, slot, generation):
            self.pool.note_freed(segment, slot)

    def unregister(self, name: bytes, meant: dict[str, Any]) -> None:
        """Destroy a name's mutex.

        Args:
            name: as UTF-8.
            meant: what of ``generation``, ``segment`` and ``slot`` the tenant must have.

        Raises:
            KeyNotFound: no mutex has that name, or it is another tenant than is meant. GrtIsEmpty: none has any.
        """
        ref = self.find(name)
        if any(getattr(ref, field) != value for field, value in meant.items()):
            text = name.decode("utf-8", "replace")
            raise KeyNotFound(
                f"the name {text!r} of instance {self.instance!r} now belongs to another mutex",
                name=text,
                instance=self.instance,
            )
        del self._places[name]
        self.version += 1
        self.pool.free(ref)

    def destroy(self) -> int:
        """Destroy every mutex and remove every segment. Returns how many mutexes there were."""
        self._places.clear()
        self.version += 1
        return self.pool.destroy()
