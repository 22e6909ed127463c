"""Handles made, handed over, and consumed: the parts of a mutex's life that are not hot."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..base.names import KIND_BOX, KIND_SECTION, KIND_WORDS
from ..base.unset import UNSET
from ..core import _core
from ..core._core import Segment
from ..core.types import KNOWN, SECTION, Codec, codec_for, codec_of_tag
from ..errors import AlreadyOwned, DowncastError, MutexBusy, MutexDestroyed
from . import homes
from .kinds import class_of

if TYPE_CHECKING:
    from ..base.records import SlotRef, Statistics
    from ..core._core import CriticalSection, FastMutex, KMutex, Snapshot
    from ..core.box import Box
    from ..protocol.bulk import Places

__all__ = ["attach", "attach_at", "attach_many"]


def statistics_of(prefix: str, facts: Snapshot) -> Statistics:
    """As :func:`wdkmutex_shm.pool.slot_info.statistics_of`."""
    from ..pool import slot_info

    return slot_info.statistics_of(prefix, facts)


def portable_type(codec: Codec) -> Any:
    """Return T for pickling: the type, or UNSET where the slot itself says enough."""
    return codec.type if codec.code == 9 else None


def create_anonymous(mutex: Any, kind: int, value: Any, type_: Any) -> None:
    """Make an anonymous mutex and bind the new handle ``mutex`` to it."""
    from ..pool import private

    mutex._must_be_new()
    codec = codec_for(value, type_)
    private.house(mutex, kind, codec, codec.encode(value))


def create_anonymous_section(section: CriticalSection) -> None:
    """Make an anonymous critical section and bind the new handle to it."""
    from ..pool import private

    section._must_be_new()
    private.house(section, KIND_SECTION, SECTION, b"\xc0")


def _destroyed(name: str) -> MutexDestroyed:
    return MutexDestroyed(f"mutex {name!r} was destroyed, overwritten, unregistered or moved out", name=name)


# Segments of instances stay mapped between one handle and the next, until this process leaves the Grt.
_kept: dict[str, Segment] = {}


def forget_segments(prefix: str = "") -> None:
    """Let go of the segments that no handle uses (of one pool, if a ``prefix`` is given): a Grt was left or is gone."""
    for name in list(_kept):
        if name.startswith(prefix and prefix + "."):
            _kept.pop(name, None)


def _segment(name: str, nonce: int) -> Segment | None:
    """The pool segment of that name and nonce, mapped; None if it is gone."""
    known = _kept.get(name)
    if known is not None and known.nonce == nonce:
        return known
    prefix = name[: name.rindex(".")]
    if known is not None:
        forget_segments(prefix)  # the instance was destroyed and made anew, and its memory is ours to free as well
    try:
        return _map(name, prefix, nonce)
    except (FileNotFoundError, MutexDestroyed):
        return None


def _map(segment: str, prefix: str, nonce: int) -> Segment:
    """Map a pool segment; one of an instance stays mapped."""
    mapped = Segment.attach(segment, prefix, nonce)
    if ".@" in prefix:
        from ..pool.private import at_end

        at_end()
    else:
        _kept[segment] = mapped
    return mapped


def attach(
    ref: SlotRef, kind: int, type: Any = UNSET, name: str = ""
) -> FastMutex[Any] | KMutex[Any] | CriticalSection:
    """As :func:`attach_at`, for the tenant at ``ref``."""
    return attach_at(ref.segment, ref.nonce, ref.slot, ref.generation, kind, type, name)


def attach_at(
    segment: str, nonce: int, slot: int, generation: int, kind: int, type: Any = UNSET, name: str = ""
) -> FastMutex[Any] | KMutex[Any] | CriticalSection:
    """Return a handle to a mutex, mapping its segment if this process has not yet.

    Args:
        segment, nonce, slot, generation: where it lives, as a SlotRef says it.
        kind: what the caller takes it for. type: T the caller expects; unset, whatever it is.

    Raises:
        DowncastError: it is of another kind or T. MutexDestroyed: it is gone.
        LayoutMismatch, SegmentRefused: its segment cannot be used.
    """
    mapped = _segment(segment, nonce)
    if mapped is None:
        raise _destroyed(name)
    wanted = None if type is UNSET else codec_for(type=type)
    cls = class_of(kind)
    handle = _core.attach_one(cls, kind, wanted, KNOWN, mapped, slot, generation)
    if handle is not None:
        return handle  # type: ignore[no-any-return]
    facts = _core.snapshot(mapped, slot, generation)
    if facts is None:
        raise _destroyed(name)
    if facts.kind != kind:
        found, expected = KIND_WORDS.get(facts.kind, "?"), KIND_WORDS.get(kind, "?")
        raise DowncastError(
            f"{name!r} is a mutex of kind {found}, not {expected}", name=name, found=found, wanted=expected
        )
    codec = codec_of_tag((facts.type_code, facts.type_hash, facts.label.encode()), type, name)
    handle = cls.__new__(cls)
    handle._bind(mapped, slot, generation, kind, codec)
    return handle  # type: ignore[no-any-return]


def attach_many(places: Places, kind: int, codecs: list[Codec] | None) -> tuple[list[Any], list[int]]:
    """Return a handle to each of many mutexes, None where :func:`attach` would raise something or take longer.

    Args:
        codecs: of each mutex; None: of whatever each one is.

    Returns:
        The handles, and where among them there is None.
    """
    mapped = {number: _segment(*segment) for number, segment in places.segments.items()}
    segments = {number: segment for number, segment in mapped.items() if segment is not None}
    return _core.attach_many(class_of(kind), kind, codecs, KNOWN, segments, places.words)


def rebuild(
    segment: str, prefix: str, nonce: int, slot: int, generation: int, kind: int, type_: Any
) -> FastMutex[Any] | KMutex[Any] | CriticalSection:
    """Unpickle a handle."""
    return attach_at(segment, nonce, slot, generation, kind, UNSET if type_ is None else type_)


# Pickles name it by this, in whichever file it is.
rebuild.__module__, rebuild.__qualname__, rebuild.__name__ = "wdkmutex_shm", "_rebuild", "_rebuild"


def consume(mutex: Any, box_codec: Codec | None) -> Any:
    """``to_owned`` and ``to_owned_box``: take T out under the lock, then end the tenancy."""
    name = mutex.name
    guard = mutex.try_lock()
    for _ in range(20):
        if guard is not None or mutex.owner is not None:
            break
        time.sleep(0.001)  # free, but promised to a waiter, who may be dead
        guard = mutex.try_lock()
    if guard is None:
        from ..pool.slot_info import info_of

        info = info_of(_map_of(mutex), mutex.slot_index, mutex.generation)
        raise MutexBusy(
            f"mutex {name!r} cannot be consumed: its lock is held"
            + (f" by process {info.owner_pid}" if info and info.owner_pid else "")
            + "; T is unchanged",
            name=name,
            owner_pid=info.owner_pid if info else None,
            owner_tid=info.owner_tid if info else None,
        )
    with guard:
        if guard.is_inner:
            raise AlreadyOwned(f"mutex {name!r} cannot be consumed: this thread holds its lock", name=name)
        taken: Any = mutex._committed() if box_codec is None else box_of(mutex._committed_bytes(), box_codec)
        try:
            _end_tenancy(mutex, name)
        except BaseException:
            if box_codec is not None:
                taken.close()
            raise
        mutex._empty()
    mutex._collect()
    return taken


def _map_of(mutex: Any) -> Segment:
    return _map(mutex.segment, mutex.segment[: mutex.segment.rindex(".")], mutex.nonce)


def _end_tenancy(mutex: Any, name: str) -> None:
    if not homes.home_of(mutex).end_tenancy(mutex):
        raise _destroyed(name)


def box_of(payload: Sequence[int] | bytes, codec: Codec) -> Box[Any]:
    """Put the msgpack bytes of a T into a box in this process's private pool."""
    from ..core._core import Handle
    from ..core.box import Box
    from ..pool import private

    raw = bytes(payload)
    home = Handle()
    pool = private.house(home, KIND_BOX, codec, raw)
    return Box._own(pool, home, codec)
