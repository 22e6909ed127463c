"""A pool: slots handed out, taken back, recovered after its writer was killed, and destroyed by whoever comes next."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from processes import Child, Line, read_shm, write_shm

from wdkmutex_shm import MutexDestroyed
from wdkmutex_shm.base.layout import HEADER_BYTES
from wdkmutex_shm.base.names import KIND_FAST, KIND_K, KIND_SECTION, NAME_BYTES, instance_prefix
from wdkmutex_shm.base.records import SlotRef
from wdkmutex_shm.core import _core
from wdkmutex_shm.core.types import codec_for
from wdkmutex_shm.errors import DowncastError, SegmentRefused
from wdkmutex_shm.memory import data_segments, shm
from wdkmutex_shm.objects import handles
from wdkmutex_shm.pool.pool import Pool

GENERATION_AT = 64  # offset in a slot, see slot.h
INT, BYTES = codec_for(0), codec_for(b"")


@pytest.fixture
def prefix() -> Iterator[str]:
    name = instance_prefix(f"pool{os.getpid()}")
    yield name
    for segment in shm.listing(name + "."):
        shm.unlink(segment)


def add(pool: Pool, name: str = "n", value: int = 0, kind: int = KIND_K) -> SlotRef:
    return pool.allocate(name.encode(), kind, INT.tag, INT.encode(value))


def add_large(pool: Pool, value: bytes, name: str = "large") -> SlotRef:
    raw = BYTES.encode(value)
    ident = data_segments.create(pool.prefix, raw)
    return pool.allocate(name.encode(), KIND_FAST, BYTES.tag, b"", (ident, len(raw)))


def handle(ref: SlotRef, kind: int = KIND_K) -> Any:
    return handles.attach(ref, kind)


def test_allocate_and_free(prefix: str) -> None:
    pool = Pool.open(prefix)
    ref = add(pool, "name", 7)
    mutex = handle(ref)
    assert mutex.name == "name"
    assert mutex.peek() == 7
    info = pool.info(ref)
    assert info is not None
    assert (info.name, info.kind, info.label, info.state, info.value_bytes) == ("name", "k", "int", "free", 1)
    assert pool.free(ref) is True
    assert pool.free(ref) is False
    assert pool.info(ref) is None
    with pytest.raises(MutexDestroyed):
        mutex.peek()
    with pytest.raises(MutexDestroyed):
        handle(ref)


def test_wrong_kind(prefix: str) -> None:
    ref = add(Pool.open(prefix))
    for kind in (KIND_FAST, KIND_SECTION):
        with pytest.raises(DowncastError):
            handle(ref, kind)


@pytest.mark.parametrize(
    "name", ["a", "x" * NAME_BYTES, "ä" * (NAME_BYTES // 2), "😀" * (NAME_BYTES // 4), "b\n/..", "\u202e"]
)
def test_any_name_comes_back(prefix: str, name: str) -> None:
    pool = Pool.open(prefix)
    ref = add(pool, name)
    assert handle(ref).name == name
    assert [found for found, _, _ in Pool.open(prefix).tenants()] == [name.encode()]


def test_slots_are_used_again_with_another_generation(prefix: str) -> None:
    pool = Pool.open(prefix)
    first = add(pool, "first", 1)
    old = handle(first)
    old.fetch_add(5)
    pool.free(first)
    second = add(pool, "second", 2)
    assert (second.segment, second.slot) == (first.segment, first.slot)
    assert second.generation > first.generation
    with pytest.raises(MutexDestroyed):
        old.lock()
    new = handle(second)
    assert (new.name, new.peek()) == ("second", 2)
    assert new.statistics().acquisitions == new.statistics().commits == 0
    assert old != new
    assert not new.destroyed
    assert old.destroyed


def test_held_slot_waits_in_quarantine(prefix: str) -> None:
    pool = Pool.open(prefix)
    ref = add(pool)
    with Child(_hold, ref) as child:
        child.hear()
        assert pool.free(ref)
        assert pool.look() == 1
        assert pool.stats().quarantined == 1
        other = add(pool, "other")
        assert (other.segment, other.slot) != (ref.segment, ref.slot)
        child.say("release")
        assert child.hear() == "released"
        assert pool.look() == 0
    with Child(_hold, other) as child:
        child.hear()
        pool.free(other)
        assert pool.look() == 1
        child.kill()
        assert pool.look() == 0


def _hold(line: Line, ref: SlotRef) -> None:
    guard = handle(ref).lock()
    line.say("held")
    line.hear()
    guard.drop_safe()
    line.say("released")


def test_many_more_than_one_segment_holds(prefix: str) -> None:
    pool = Pool.open(prefix)
    count = pool.stats().slots * 2 + 10
    refs = [add(pool, f"n{number}", number) for number in range(count)]
    stats = pool.stats()
    assert stats.segments >= 2
    assert stats.used == count
    assert len({(ref.segment, ref.slot) for ref in refs}) == count
    recovered = Pool.open(prefix)
    assert recovered.stats() == stats
    assert {name for name, _, _ in recovered.tenants()} == {f"n{number}".encode() for number in range(count)}
    for ref in refs:
        assert recovered.free(ref)
    assert recovered.stats().used == 0
    again = [add(recovered, "again") for _ in range(count)]
    assert recovered.stats().segments == stats.segments
    assert len(set(again)) == count


def test_serials_tell_the_order(prefix: str) -> None:
    pool = Pool.open(prefix)
    for number in range(5):
        add(pool, f"n{number}")
    order = sorted((serial, name) for name, _, serial in pool.tenants())
    assert [name for _, name in order] == [b"n0", b"n1", b"n2", b"n3", b"n4"]
    recovered = Pool.open(prefix)
    add(recovered, "last")
    assert max((serial, name) for name, _, serial in recovered.tenants())[1] == b"last"


def test_data_segments_go_with_their_mutex(prefix: str) -> None:
    pool = Pool.open(prefix)
    ref = add_large(pool, b"x" * 10_000)
    mutex = handle(ref, KIND_FAST)
    assert mutex.peek() == b"x" * 10_000
    mutex.replace(b"y" * 20_000)
    assert pool.stats().data_bytes > 20_000
    info = pool.info(ref)
    assert info is not None
    assert info.pool_bytes > 20_000
    pool.free(ref)
    assert shm.listing(prefix + ".d") == []
    assert pool.stats().data_bytes == 0


def test_recovery_while_locks_are_held(prefix: str) -> None:
    pool = Pool.open(prefix)
    ref, dropped = add(pool, "held", 5), add(pool, "dropped")
    with Child(_hold, ref) as child, Child(_hold, dropped) as other:
        child.hear()
        other.hear()
        pool.free(dropped)
        recovered = Pool.open(prefix)
        info = recovered.info(ref)
        assert info is not None
        assert (info.name, info.state, info.owner_pid) == ("held", "held", child.pid)
        assert recovered.stats().quarantined == 1
        child.kill()
        info = recovered.info(ref)
        assert info is not None
        assert info.state == "abandoned"
        assert handle(ref).lock().abandoned
        other.say("release")
        assert other.hear() == "released"
        assert recovered.look() == 0


@pytest.mark.parametrize("moment", range(12))
def test_recovery_after_the_writer_was_killed(prefix: str, moment: int) -> None:
    # The writer is killed at its n-th call into the operating system while it makes, grows and frees mutexes.
    with Child(_write_until_killed, prefix, moment) as child:
        assert child.end() in (0, -signal.SIGKILL)
    pool = Pool.open(prefix)
    names = [name for name, _, _ in pool.tenants()]
    assert len(set(names)) == len(names)
    for _, ref, _ in list(pool.tenants()):
        info = pool.info(ref)
        assert info is not None
        mutex = handle(ref, KIND_FAST)
        assert mutex.peek() == mutex.replace(b"mended")
        assert pool.free(ref)
    assert pool.stats().used == 0
    ref = add(pool, "new", 3)
    assert handle(ref).fetch_add() == 3
    pool.destroy()
    assert shm.listing(prefix + ".p") == []


def _write_until_killed(line: Line, prefix: str, moment: int) -> None:
    calls = 0

    def counted(function: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            nonlocal calls
            if calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            return function(*args, **named)

        return call

    for name in ("posix_fallocate", "fchmod", "close", "pwrite", "fstat"):
        setattr(os, name, counted(getattr(os, name)))
    shm.unlink = counted(shm.unlink)
    pool = Pool.open(prefix)
    refs = [add_large(pool, b"x" * 5000, f"n{number}") for number in range(2)]
    pool.free(refs[0])
    add_large(pool, b"y" * 5000, "last")


def test_segment_that_was_never_published_is_removed(prefix: str) -> None:
    for size in (0, 100, 4096, 1 << 16):
        os.close(shm.create(f"{prefix}.p0", size)) if size else _empty(f"{prefix}.p0")
        pool = Pool.open(prefix)
        assert handle(add(pool)).fetch_add() == 0
        pool.destroy()


def _empty(name: str) -> None:
    with open(shm.FOLDER + name, "xb"):
        os.chmod(shm.FOLDER + name, 0o600)


def test_destroy(prefix: str) -> None:
    pool = Pool.open(prefix)
    refs = [add(pool, f"n{number}") for number in range(3)]
    add_large(pool, b"x" * 5000)
    mutexes = [handle(ref) for ref in refs]
    guard = mutexes[0].lock()
    assert pool.destroy() == 4
    assert shm.listing(prefix + ".") == []
    for mutex in mutexes:
        with pytest.raises(MutexDestroyed):
            mutex.peek()
    guard.drop_safe()
    assert pool.destroy() == 0
    with pytest.raises(MutexDestroyed):
        handle(refs[1])
    fresh = Pool.open(prefix)
    assert list(fresh.tenants()) == []
    with pytest.raises(MutexDestroyed):
        mutexes[1].lock()
    with pytest.raises(MutexDestroyed):
        handle(refs[1])


@pytest.mark.parametrize("moment", range(4))
def test_destroy_is_finished_by_the_successor(prefix: str, moment: int) -> None:
    with Child(_destroy_until_killed, prefix, moment) as child:
        assert child.end() == -signal.SIGKILL
    with pytest.raises(FileNotFoundError):
        Pool.open(prefix, create=False)
    assert shm.listing(prefix + ".") == []


def _destroy_until_killed(line: Line, prefix: str, moment: int) -> None:
    pool = Pool.open(prefix)
    for number in range(pool.stats().slots + 1):
        add(pool, f"n{number}")
    add_large(pool, b"x" * 5000)
    calls = 0
    unlink, empty = shm.unlink, _core.free_data

    def count() -> None:
        nonlocal calls
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1

    def counted(name: str) -> bool:
        count()
        return unlink(name)

    def emptied(segment: Any, index: int) -> None:
        count()
        empty(segment, index)

    if moment == 3:
        pool.segments[0].flag_destroyed()
        moment = calls
    shm.unlink, _core.free_data = counted, emptied
    pool.destroy()


def test_open_without_create(prefix: str) -> None:
    with pytest.raises(FileNotFoundError):
        Pool.open(prefix, create=False)
    assert shm.listing(prefix + ".") == []
    Pool.open(prefix)
    Pool.open(prefix, create=False)


def test_server(prefix: str) -> None:
    assert Pool.server_of(prefix) is None
    pool = Pool.open(prefix)
    assert Pool.server_of(prefix) is None
    pool.set_server(os.getpid(), "/tmp/ä.sock")
    assert Pool.server_of(prefix) == (os.getpid(), "/tmp/ä.sock")
    pool.set_server(1, "/x")
    assert Pool.server_of(prefix) == (1, "/x")
    with pytest.raises(ValueError):
        pool.set_server(1, "x" * 108)
    assert Pool.server_of(prefix) == (1, "/x")


def test_orphaned_data_of_a_registration(prefix: str) -> None:
    from wdkmutex_shm.pool import sweep

    pool = Pool.open(prefix)
    kept = add_large(pool, b"x" * 5000)
    mine = data_segments.create(prefix, b"y" * 5000)
    with Child(_make_data, prefix) as child:
        ident = child.hear()
        assert sweep.orphan_data(pool) == []
        child.kill()
        assert sweep.orphan_data(pool) == [f"{prefix}.d{ident:016x}"]
    assert handle(kept, KIND_FAST).peek() == b"x" * 5000
    assert data_segments.unlink(prefix, mine)


def _make_data(line: Line, prefix: str) -> None:
    line.say(data_segments.create(prefix, b"z" * 5000))
    line.hear()


@pytest.mark.slow
def test_a_large_pool_is_not_kept_resident(prefix: str) -> None:
    """Its pages are let go when they were looked at, and nothing is lost by that."""

    def resident() -> int:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("RssShmem")) << 10

    pool = Pool.open(prefix)
    codec = codec_for(0)
    before = resident()
    names = [b"n%d" % number for number in range(300_000)]
    places: list[int] = []
    for start in range(0, len(names), 1000):
        some = names[start : start + 1000]
        places += pool.allocate_many(some, KIND_FAST, [codec.tag], [0] * 1000, [codec.encode(start)] * 1000)
    size = pool.stats().pool_bytes
    assert size > 120 << 20
    assert resident() - before < size // 2
    with pool_mutex(pool, places[5]).lock() as guard:
        for look in (pool.look, lambda: Pool.open(prefix), lambda: pool.touched(10_000)):
            look()
            assert resident() - before < size // 2
        guard.value += 7
    assert pool_mutex(pool, places[5]).peek() == 7
    assert pool_mutex(pool, places[-1]).peek() == 299_000
    assert pool.stats().used == 300_000
    assert pool.destroy() == 300_000


def pool_mutex(pool: Pool, place: int) -> Any:
    """A handle to what lives at a place that ``allocate_many`` has told."""
    segment, slot = pool.segments[place >> 24], place & 0xFFFFFF
    ref = SlotRef(segment.name, segment.nonce, slot, _core.generation_of(segment, slot))
    return handles.attach(ref, KIND_FAST, int)


def test_a_listed_slot_that_is_not_free_is_left_alone(prefix: str) -> None:
    """Its generation was damaged: it may be somebody's, so the next free slot is taken."""
    pool = Pool.open(prefix)
    name = pool.segments[0].name
    write_shm(name, HEADER_BYTES + GENERATION_AT, (7).to_bytes(8, "little"))
    ref = add(pool, "n", 5)
    assert ref.slot == 1
    assert handle(ref).peek() == 5
    assert read_shm(name, HEADER_BYTES + GENERATION_AT, 8) == (7).to_bytes(8, "little")


def _squat(name: str) -> None:
    os.close(os.open(shm.FOLDER + name, os.O_CREAT | os.O_EXCL, 0o666))
    os.chown(shm.FOLDER + name, 12345, 12345)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away takes root")
def test_another_user_took_the_name_of_the_next_segment(prefix: str) -> None:
    pool = Pool.open(prefix)
    count = pool.segments[0].count
    refs = [add(pool, f"n{number}", number) for number in range(count)]
    _squat(f"{prefix}.p1")
    with pytest.raises(SegmentRefused) as caught:
        add(pool, "more")
    assert (caught.value.name, caught.value.owner_uid) == (f"{prefix}.p1", 12345)
    assert os.stat(f"{shm.FOLDER}{prefix}.p1").st_uid == 12345, "it is left alone"
    assert handle(refs[-1]).peek() == count - 1
    pool.free(refs[0])
    assert handle(add(pool, "again", 8)).peek() == 8
    shm.unlink(f"{prefix}.p1")
    assert handle(add(pool, "more", 9)).peek() == 9


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away takes root")
@pytest.mark.parametrize("number", [1, 7])
def test_a_name_that_another_user_took_keeps_no_pool_from_being_opened(prefix: str, number: int) -> None:
    ref = add(Pool.open(prefix), "n", 5)
    _squat(f"{prefix}.p{number}")
    pool = Pool.open(prefix)
    assert [place for _, place, _ in pool.tenants()] == [ref]
    assert os.stat(f"{shm.FOLDER}{prefix}.p{number}").st_uid == 12345
