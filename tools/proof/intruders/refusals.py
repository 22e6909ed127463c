"""Segments that are cut short, empty, somebody else's, or of another layout: each is refused by its name."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from wdkmutex_shm.base.names import KIND_K, data_segment, instance_prefix
from wdkmutex_shm.base.records import SlotRef
from wdkmutex_shm.core.types import codec_for
from wdkmutex_shm.errors import LayoutMismatch, MutexDamaged, OtherPidNamespace, SegmentRefused
from wdkmutex_shm.memory import data_segments, shm
from wdkmutex_shm.objects import handles
from wdkmutex_shm.pool.pool import Pool

from ..base.children import in_child
from ..base.harness import Proof
from ..base.instances import NOBODY, ROOT, ending_of, segments
from .damager import write

#: Header fields of a pool segment and of a data segment that must be ours: offset, format. See slot.h.
_POOL_FIELDS = {
    "magic": (0, "=Q"),
    "layout": (8, "=I"),
    "mutex size": (12, "=I"),
    "slot size": (16, "=I"),
    "slots": (20, "=I"),
    "word size": (24, "=I"),
    "C library": (28, "=I"),
    "pid namespace": (32, "=Q"),
    "boot id": (40, "=Q"),
}
_DATA_FIELDS = {"magic": (0, "=Q"), "id": (8, "=Q"), "capacity": (16, "=Q"), "layout": (44, "=I")}
_WRONG = 0x7FFF_FFFF
_SMALL, _LARGE = 5000, 200_000


@contextlib.contextmanager
def _pool(name: str, size: int) -> Iterator[tuple[SlotRef, str]]:
    """A pool that nobody has mapped, in which one mutex lives whose T of ``size`` bytes is in a data segment.

    Yields where the mutex is, and the name of that segment.
    """
    prefix = instance_prefix(name)
    try:
        pool = Pool.open(prefix)
        codec = codec_for(b"")
        raw = codec.encode(b"x" * size)
        ident = data_segments.create(prefix, raw)
        ref = pool.allocate(b"refused", KIND_K, codec.tag, b"", (ident, len(raw)))
        del pool  # or a child would inherit the mapping, and have nothing to look at before it uses it
        yield ref, data_segment(prefix, ident)
    finally:
        for segment in segments(name):
            shm.unlink(segment)


def _cut(size: int) -> Callable[[str], None]:
    return lambda name: os.truncate(shm.FOLDER + name, size)


def _give_away(name: str) -> None:
    os.chown(shm.FOLDER + name, NOBODY, NOBODY)


def _set(offset: int, form: str) -> Callable[[str], None]:
    return lambda name: write(name, offset, struct.pack(form, _WRONG))


def _harms(fields: dict[str, tuple[int, str]], sizes: list[int]) -> Iterator[tuple[str, Callable[[str], None]]]:
    for size in sizes:
        yield f"{size} bytes long", _cut(size)
    for field, (offset, form) in fields.items():
        yield f"of another {field}", _set(offset, form)
    if ROOT:
        yield "another user's", _give_away


def _check(proof: Proof, what: str, work: Callable[[], object], names: tuple[str, ...]) -> None:
    """A new process does it, and must be refused with one of the names in the message."""
    outcome = in_child(lambda: ending_of(work), 30.0)
    kinds = {error.__name__ for error in (LayoutMismatch, OtherPidNamespace, SegmentRefused, MutexDamaged)}
    told = outcome.value if outcome.well else outcome.told()
    refused = outcome.well and told[0] in kinds and any(name in told[1] for name in names)
    proof.expect(refused, f"a segment {what} is refused by its name", told=told)
    proof.counts["refusals"] += 1


def _read(ref: SlotRef, *, lock: bool) -> object:
    mutex: Any = handles.attach(ref, KIND_K)
    return mutex.lock(timeout=5).value if lock else mutex.peek()


def refusals(proof: Proof) -> None:
    """Try every harm on a pool segment and on data segments, small and large."""
    if not ROOT:
        proof.skip("segments of another user: only root can give a file away")
    name = f"{proof.instance}-r"
    for what, harm in _harms(_POOL_FIELDS, [0, 1, 4095, 4096, 5000]):
        with _pool(name, _SMALL) as (ref, _):
            harm(ref.segment)
            _check(proof, what, lambda: handles.attach(ref, KIND_K), (ref.segment,))
            if what not in ("0 bytes long", "1 bytes long", "4095 bytes long"):  # those a maker may have died over
                _check(proof, what, lambda: Pool.open(instance_prefix(name)), (ref.segment,))
    for size in (_SMALL, _LARGE):
        for what, harm in _harms(_DATA_FIELDS, [0, 1, 63, 64, 100, 4096]):
            with _pool(name, size) as (ref, segment):
                harm(segment)
                for lock in (True, False):
                    _check(proof, f"of T {what}", partial(_read, ref, lock=lock), (segment, "refused"))
