"""Segments that are not as they should be: of another layout, cut short, or somebody else's."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from processes import in_child, write_shm

from wdkmutex_shm import KMutex, LayoutMismatch, MutexDamaged, MutexDestroyed, SegmentRefused
from wdkmutex_shm.base.layout import HEADER_BYTES, SLOT_BYTES
from wdkmutex_shm.base.names import KIND_K, instance_prefix
from wdkmutex_shm.base.records import SlotRef
from wdkmutex_shm.core._core import Segment
from wdkmutex_shm.core.types import codec_for
from wdkmutex_shm.errors import ProtocolError
from wdkmutex_shm.memory import data_segments, shm
from wdkmutex_shm.objects import handles
from wdkmutex_shm.pool.pool import Pool

# Field of the header: offset, format; see slot.h.
FIELDS = {
    "magic": (0, "Q"),
    "layout": (8, "I"),
    "sizeof(pthread_mutex_t)": (12, "I"),
    "slot size": (16, "I"),
    "slots": (20, "I"),
    "word size": (24, "I"),
    "C library": (28, "I"),
    "pid namespace": (32, "Q"),
    "boot id": (40, "16s"),
}


@pytest.fixture
def prefix() -> Iterator[str]:
    name = instance_prefix(f"seg{os.getpid()}")
    yield name
    for segment in shm.listing(name + "."):
        shm.unlink(segment)


@pytest.fixture
def ref(prefix: str) -> SlotRef:
    codec = codec_for(0)
    return Pool.open(prefix).allocate(b"n", KIND_K, codec.tag, codec.encode(1))


def test_as_it_should_be(prefix: str, ref: SlotRef) -> None:
    assert Segment.attach(ref.segment, prefix).nonce == ref.nonce
    assert os.stat(shm.FOLDER + ref.segment).st_size >= HEADER_BYTES + SLOT_BYTES
    assert SLOT_BYTES <= 512


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_the_header_is_checked(prefix: str, ref: SlotRef, field: str) -> None:
    offset, form = FIELDS[field]
    wrong = b"y" * 16 if form == "16s" else 0x7FFF_FFFF
    write_shm(ref.segment, offset, struct.pack("=" + form, wrong))
    with pytest.raises(LayoutMismatch) as caught:
        Segment.attach(ref.segment, prefix)
    assert caught.value.field == field
    assert caught.value.name == ref.segment
    if field != "slots":
        assert caught.value.found == wrong
    assert caught.value.expected is not None
    assert field in str(caught.value)
    elsewhere = field in ("pid namespace", "boot id")
    assert in_child(_attach, ref) == ("OtherPidNamespace" if elsewhere else "LayoutMismatch")
    with pytest.raises(LayoutMismatch):
        Pool.open(prefix)
    # Nothing was removed or mended: it is somebody's.
    assert shm.listing(prefix + ".p") == [ref.segment]


def _attach(ref: SlotRef) -> str:
    try:
        handles.attach(ref, KIND_K)
    except LayoutMismatch as error:
        return type(error).__name__
    return "attached"


@pytest.mark.parametrize("size", [0, 1, 4095, HEADER_BYTES, HEADER_BYTES + SLOT_BYTES])
def test_cut_short(prefix: str, ref: SlotRef, size: int) -> None:
    with open(shm.FOLDER + ref.segment, "r+b") as file:
        file.truncate(size)
    with pytest.raises(LayoutMismatch) as caught:
        Segment.attach(ref.segment, prefix)
    assert caught.value.field in ("size", "slots")


def test_of_zeros_and_of_noise(prefix: str) -> None:
    name = f"{prefix}.p0"
    os.close(shm.create(name, 1 << 16))
    with pytest.raises(LayoutMismatch) as caught:
        Segment.attach(name, prefix)
    assert (caught.value.field, caught.value.found) == ("magic", 0)
    write_shm(name, 0, os.urandom(1 << 16))
    with pytest.raises(LayoutMismatch):
        Segment.attach(name, prefix)
    with pytest.raises(LayoutMismatch):
        Pool.open(prefix)


def test_another_segment_of_the_same_name(prefix: str, ref: SlotRef) -> None:
    shm.unlink(ref.segment)
    with pytest.raises(MutexDestroyed):
        handles.attach(ref, KIND_K)
    codec = codec_for(0)
    again = Pool.open(prefix).allocate(b"n", KIND_K, codec.tag, codec.encode(2))
    assert again.nonce != ref.nonce
    with pytest.raises(MutexDestroyed):
        handles.attach(ref, KIND_K)
    with pytest.raises(MutexDestroyed):
        handles.attach(again._replace(slot=10**6), KIND_K)
    with pytest.raises(MutexDestroyed):
        handles.attach(again._replace(generation=again.generation + 2), KIND_K)


def test_no_segment(prefix: str) -> None:
    with pytest.raises(FileNotFoundError):
        Segment.attach(f"{prefix}.p0", prefix)
    with pytest.raises(MutexDestroyed):
        handles.attach(SlotRef(f"{prefix}.p0", 1, 0, 1), KIND_K, name="n")


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away takes root")
def test_of_another_user(prefix: str, ref: SlotRef) -> None:
    path = shm.FOLDER + ref.segment
    os.chown(path, 12345, 12345)
    with pytest.raises(SegmentRefused) as caught:
        Segment.attach(ref.segment, prefix)
    assert caught.value.owner_uid == 12345
    assert "12345" in str(caught.value)
    with pytest.raises(PermissionError):
        Pool.open(prefix)
    assert in_child(_refused_to_nobody, ref.segment)
    large = data_segments.create(prefix, b"x" * 100, staged=True)
    os.chown(shm.FOLDER + f"{prefix}.d{large:016x}", 12345, 12345)
    with pytest.raises(SegmentRefused):
        data_segments.adopt(prefix, large, 100)


def _refused_to_nobody(name: str) -> bool:
    os.setuid(54321)
    try:
        shm.open_segment(name)
    except SegmentRefused as error:
        return "another user" in str(error)
    return False


@pytest.mark.parametrize("mask", [0, 0o022, 0o777])
def test_mode_whatever_the_umask(prefix: str, mask: int) -> None:
    before = os.umask(mask)
    try:
        pool = Pool.open(prefix)
        ident = data_segments.create(prefix, b"x" * 5000, staged=True)
    finally:
        os.umask(before)
    names = [pool.segments[0].name, f"{prefix}.d{ident:016x}"]
    for name in names:
        assert os.stat(shm.FOLDER + name).st_mode & 0o777 == 0o600
    data_segments.adopt(prefix, ident, 5000)
    assert in_child(_make_under_mask, mask) == 0o600


def _make_under_mask(mask: int) -> int:
    os.umask(mask)
    mutex = KMutex(b"x" * 5000)
    mutex.replace(b"y" * 50_000)
    return os.stat(shm.FOLDER + mutex.segment).st_mode & 0o777


def test_memory_is_reserved(prefix: str) -> None:
    pool = Pool.open(prefix)
    ident = data_segments.create(prefix, b"x")
    for name in (pool.segments[0].name, f"{prefix}.d{ident:016x}"):
        status = os.stat(shm.FOLDER + name)
        assert status.st_blocks * 512 >= status.st_size


def test_nothing_is_executable_or_left_open(prefix: str) -> None:
    before = set(os.listdir("/proc/self/fd"))
    pool = Pool.open(prefix)
    codec = codec_for(b"")
    refs = [pool.allocate(b"n%d" % number, KIND_K, codec.tag, codec.encode(b"")) for number in range(20)]
    mutexes = [handles.attach(ref, KIND_K) for ref in refs]
    for mutex in mutexes:
        mutex.replace(b"x" * 5000)  # type: ignore[union-attr]
    assert len(set(os.listdir("/proc/self/fd")) - before) == 1, "that of the segment"
    with open("/proc/self/maps") as maps:
        assert not [line for line in maps if "/dev/shm/wdkm" in line and "x" in line.split()[1]]


@pytest.mark.parametrize("length", [-1, 5001 + 5000, 2**40])
def test_data_segment_that_is_too_small(prefix: str, length: int) -> None:
    ident = data_segments.create(prefix, b"x" * 5000, staged=True)
    with pytest.raises(ProtocolError, match="is smaller than"):
        data_segments.adopt(prefix, ident, length)
    data_segments.adopt(prefix, ident, 5000)


def test_data_segment_that_has_a_mutex(prefix: str) -> None:
    ident = data_segments.create(prefix, b"x" * 5000, staged=True)
    data_segments.adopt(prefix, ident, 5000)
    for taken in (ident, data_segments.create(prefix, b"x" * 5000)):
        with pytest.raises(ProtocolError, match="belongs"):
            data_segments.adopt(prefix, taken, 5000)


def test_data_segments_that_are_none(prefix: str) -> None:
    with pytest.raises(ProtocolError, match="not exist"):
        data_segments.adopt(prefix, 5, 1)
    for offset, raw in ((0, bytes(8)), (8, b"\1" * 8), (44, b"\7" * 4)):
        ident = data_segments.create(prefix, b"x" * 5000, staged=True)
        write_shm(f"{prefix}.d{ident:016x}", offset, raw)
        with pytest.raises(ProtocolError):
            data_segments.adopt(prefix, ident, 5000)
    ident = data_segments.create(prefix, b"x" * 5000, staged=True)
    with open(f"{shm.FOLDER}{prefix}.d{ident:016x}", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(ProtocolError):
        data_segments.adopt(prefix, ident, 5000)
    assert data_segments.read(prefix, ident, 5000) is None


@pytest.mark.parametrize("size", [5000, 200_000])
@pytest.mark.parametrize(("offset", "form"), [(0, "Q"), (8, "Q"), (16, "Q"), (44, "I")])
def test_data_segment_whose_header_is_not_ours(prefix: str, size: int, offset: int, form: str) -> None:
    """Magic, id, capacity, layout: whoever maps or reads it looks at all of them."""
    codec = codec_for(b"")
    raw = codec.encode(b"x" * size)
    ident = data_segments.create(prefix, raw)
    ref = Pool.open(prefix).allocate(b"n", KIND_K, codec.tag, b"", (ident, len(raw)))
    assert in_child(_read, ref) == ["value", "value"]
    write_shm(f"{prefix}.d{ident:016x}", offset, struct.pack("=" + form, 0x7FFF_FFFF))
    assert in_child(_read, ref) == ["MutexDamaged", "MutexDamaged"]
    assert data_segments.read(prefix, ident, len(raw)) is None


def _read(ref: SlotRef) -> list[str]:
    told = []
    mutex: Any = handles.attach(ref, KIND_K)
    for read in (mutex.peek, lambda: mutex.lock(timeout=5).value):
        try:
            read()
            told.append("value")
        except MutexDamaged as error:
            assert error.name == "n"
            told.append("MutexDamaged")
    return told


def test_no_segment_is_made_in_the_name_of_another_user(prefix: str) -> None:
    others = prefix.replace(f".{os.geteuid()}.", f".{os.geteuid() + 1}.")
    with pytest.raises(SegmentRefused, match="changed its user"):
        data_segments.create(others, b"x" * 100)
    assert shm.listing(others) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="changing the user takes root")
@pytest.mark.parametrize("old", [b"old", b"old" * 3000])
def test_a_process_that_changed_its_user_publishes_nothing_that_others_refuse(prefix: str, old: bytes) -> None:
    codec = codec_for(b"")
    ref = Pool.open(prefix).allocate(b"n", KIND_K, codec.tag, codec.encode(b""))
    mutex: Any = handles.attach(ref, KIND_K)
    mutex.replace(old)
    assert in_child(_grow_as_another, mutex) == ["SegmentRefused", "SegmentRefused", "well"]
    assert mutex.peek() == b"inline"
    assert mutex.lock(timeout=5).value == b"inline"


def _grow_as_another(mutex: Any) -> list[str]:
    os.setgid(54321)
    os.setuid(54321)

    def by_with() -> None:
        with mutex.lock(timeout=5) as guard:
            guard.value = b"y" * 90_000

    told = []
    for work in (lambda: mutex.replace(b"x" * 50_000), by_with, lambda: mutex.replace(b"inline")):
        try:
            work()
            told.append("well")
        except SegmentRefused as error:
            told.append(type(error).__name__)
    return told


def test_an_interrupt_while_the_owner_is_looked_at_loses_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    mutex = KMutex(b"x" * 300)
    before = len(os.listdir("/proc/self/fd"))

    def interrupt() -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shm.os, "geteuid", interrupt)
        with pytest.raises(KeyboardInterrupt):
            shm.open_segment(mutex.segment)
    assert len(os.listdir("/proc/self/fd")) == before
