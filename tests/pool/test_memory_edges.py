"""Segments where the system says no, or somebody else was there: what is raised, and that nothing is left."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import pytest
from processes import read_shm, write_shm
from support import Fork

from wdkmutex_shm import KMutex, MutexDestroyed
from wdkmutex_shm.base.names import KIND_K, instance_prefix
from wdkmutex_shm.base.records import SlotRef
from wdkmutex_shm.core import _core
from wdkmutex_shm.core.types import ANY, codec_for, codec_of_tag
from wdkmutex_shm.errors import DowncastError, LayoutMismatch, PagedPoolAllocFailed, SegmentRefused
from wdkmutex_shm.memory import data_segments, shm
from wdkmutex_shm.objects import handles
from wdkmutex_shm.pool import private, sweep
from wdkmutex_shm.pool.pool import Pool

INT = codec_for(0)


@pytest.fixture
def prefix(instance: str) -> Iterator[str]:
    prefix = instance_prefix(instance)
    yield prefix
    assert shm.listing(prefix + ".") == []


def _add(pool: Pool, value: int = 1) -> SlotRef:
    return pool.allocate(b"n", KIND_K, INT.tag, INT.encode(value))


# --- segments


@pytest.mark.parametrize(("code", "expected"), [(errno.ENOSPC, PagedPoolAllocFailed), (errno.EIO, OSError)])
def test_memory_that_cannot_be_reserved(
    prefix: str, monkeypatch: pytest.MonkeyPatch, code: int, expected: type[OSError]
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", refuse)
        for make in (
            lambda: shm.create(f"{prefix}.p0", 4096),
            lambda: data_segments.create(prefix, b"x"),
            lambda: Pool.open(prefix),
        ):
            with pytest.raises(expected) as caught:
                make()
            assert caught.value.errno == code
            assert shm.listing(prefix) == []


def test_what_is_no_segment_in_a_segments_place(prefix: str) -> None:
    path = f"{shm.FOLDER}{prefix}.p0"
    os.mkdir(path)
    try:
        with pytest.raises(SegmentRefused, match="remove it") as caught:
            shm.open_segment(f"{prefix}.p0")
        assert caught.value.name == f"{prefix}.p0"
        with pytest.raises(SegmentRefused):
            Pool.open(prefix)
    finally:
        os.rmdir(path)
    os.symlink("/etc/passwd", path)
    try:
        with pytest.raises(OSError, match="symbolic links"):
            shm.open_segment(f"{prefix}.p0")
    finally:
        os.unlink(path)


def test_a_forked_child_removes_nothing_that_its_parent_is_making(prefix: str) -> None:
    """A fork in the midst of making a segment: when the child's copy of that fails, the parent's must stand."""
    name = f"{prefix}.p0"
    maker = os.getpid()
    os.close(shm.create(name, 4096))
    with Fork(lambda: shm.unmake(name, maker)) as child:
        child.result()
    assert shm.listing(prefix) == [name]
    shm.unmake(name, maker)


# --- data segments


def test_a_data_segment_without_room_for_a_header(prefix: str) -> None:
    ident = data_segments.new_id()
    name = f"{prefix}.d{ident:016x}"
    fd = shm.create(name, 10)
    with pytest.raises(LayoutMismatch) as caught:
        data_segments.header_of(name, fd)
    os.close(fd)
    assert caught.value.field == "size"
    assert data_segments.read(prefix, ident, 1) is None
    shm.unlink(name)
    assert data_segments.read(prefix, ident, 1) is None


def test_a_long_value_that_is_read_in_pieces(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a signal cuts it; and where the segment is made shorter between two pieces, there is no value."""
    payload = bytes(range(256)) * 40
    ident = data_segments.create(prefix, payload)
    real = os.pread
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", lambda fd, length, offset: real(fd, min(length, 1000), offset))
        assert data_segments.read(prefix, ident, len(payload)) == payload
    with monkeypatch.context() as patch:

        def shortened(fd: int, length: int, offset: int) -> bytes:
            raw = real(fd, min(length, 1000), offset)
            if offset:
                os.ftruncate(fd, 1000)
            return raw

        patch.setattr(os, "pread", shortened)
        assert data_segments.read(prefix, ident, len(payload)) is None
    data_segments.unlink(prefix, ident)


def test_data_of_another_boot_or_container_is_nobodys_to_remove(prefix: str) -> None:
    """Its maker's pid means nothing here, so that it is dead here proves nothing."""
    pool = Pool.open(prefix)
    with Fork(lambda: data_segments.create(prefix, b"x" * 1000)) as child:
        ident = child.result()
    name = f"{prefix}.d{ident:016x}"
    boot = read_shm(name, 48, 16)
    write_shm(name, 48, bytes(16))
    assert sweep.orphan_data(pool) == []
    write_shm(name, 48, boot)
    assert sweep.orphan_data(pool, {ident}) == [], "a mutex had it a moment ago"
    assert sweep.orphan_data(pool) == [name]
    pool.destroy()


# --- pools


def test_tenants_behind_a_missing_segment_are_destroyed(prefix: str) -> None:
    pool = Pool(prefix, first_slots=64)
    for _ in range(3):
        pool._grow()
    refs = [_add(pool) for _ in range(3 * 64)]
    behind = next(ref for ref in refs if ref.segment.endswith(".p2"))
    mutex: Any = handles.attach(behind, KIND_K)
    shm.unlink(f"{prefix}.p1")
    recovered = Pool.open(prefix)
    assert shm.listing(prefix + ".p") == [f"{prefix}.p0"]
    with pytest.raises(MutexDestroyed):
        mutex.peek()
    recovered.destroy()


def test_what_a_signal_handler_raises_right_after_a_segment_was_made(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    pool = Pool(prefix, first_slots=64)
    with monkeypatch.context() as patch:
        patch.setattr(pool, "_add", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool._grow()
    assert shm.listing(prefix) == []
    assert pool.info(_add(pool)) is not None
    pool.destroy()


def test_a_place_in_a_segment_that_the_pool_does_not_have(prefix: str) -> None:
    pool = Pool.open(prefix)
    ref = _add(pool)
    for stranger in (ref._replace(segment=f"{prefix}.p9"), ref._replace(nonce=ref.nonce + 1)):
        assert pool.info(stranger) is None
        assert pool.free(stranger) is False
    assert pool.free(ref._replace(generation=ref.generation + 2)) is False
    assert pool.info(ref._replace(generation=ref.generation + 2)) is None
    assert pool.free(ref) is True
    assert pool.free(ref) is False
    pool.destroy()


def test_a_slot_whose_tenancy_ends_while_its_lock_is_held(prefix: str) -> None:
    """Its holder has ended it and has not released yet: the slot waits for that."""

    pool = Pool.open(prefix)
    ref = _add(pool)
    mutex: Any = handles.attach(ref, KIND_K)
    with mutex.lock():
        assert _core.vacate(pool.segment_of(ref), ref.slot, ref.generation)
        pool.note_freed(pool.segment_of(ref), ref.slot)
        assert (pool.stats().used, pool.stats().quarantined) == (0, 1)
    assert pool.look() == 0
    pool.destroy()


def test_a_large_value_for_which_no_slot_is_had(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = private.the_pool()
    before = shm.listing(pool.prefix + ".")

    def full(*_: Any) -> None:
        raise shm.no_room("p", 1, OSError(errno.ENOSPC, ""))

    with monkeypatch.context() as patch:
        patch.setattr(_core, "house_handle", full)
        with pytest.raises(PagedPoolAllocFailed):
            KMutex("x" * 10_000)
    assert shm.listing(pool.prefix + ".") == before


# --- T of a slot


def test_what_a_slot_says_of_its_t() -> None:
    assert codec_of_tag(INT.tag) is INT
    assert codec_of_tag(INT.tag, int) is INT
    assert codec_of_tag(ANY.tag, None) is ANY
    with pytest.raises(DowncastError, match="of int, not of str"):
        codec_of_tag(INT.tag, str, "n")
    with pytest.raises(DowncastError, match="code 77, which this version does not support"):
        codec_of_tag((77, 0, b"?"), name="n")
    pair = codec_for((1, 2))
    assert codec_of_tag(pair.tag, tuple).decode(pair.encode((1, 2))) == (1, 2)
    with pytest.raises(TypeError, match="T of this mutex is tuple, not list"):
        pair.accept([1, 2])
