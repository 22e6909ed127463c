"""``Grt.snapshot``: all mutexes in one pass, whatever their holders, the daemon and the pool do meanwhile."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from processes import Child, Line, held_by_child, read_shm, write_shm
from scarce import no_descriptor
from support import kill_daemon
from wait_board import waiting

from wdkmutex_shm import (
    CriticalSection,
    FastMutex,
    Grt,
    GrtIsNull,
    KMutex,
    LayoutMismatch,
    MutexInfo,
    OtherPidNamespace,
    PagedPoolAllocFailed,
    SegmentRefused,
    anonymous_snapshot,
)
from wdkmutex_shm.base.layout import HEADER_BYTES, LAYOUT, SLOT_BYTES
from wdkmutex_shm.base.names import KIND_FAST, instance_prefix, pool_segment
from wdkmutex_shm.core.types import codec_for
from wdkmutex_shm.memory import shm
from wdkmutex_shm.observe import snapshot
from wdkmutex_shm.observe.snapshot import of_instance
from wdkmutex_shm.pool.pool import Pool

# Offsets in a slot, see slot.h.
LENGTHS_AT, KIND_AT, NAME_LENGTH_AT, LABEL_LENGTH_AT = 88, 120, 122, 123
PID_NAMESPACE_AT = 32
INT = codec_for(0)


def _only(name: str = "n") -> MutexInfo:
    (found,) = [info for info in Grt.snapshot() if info.name == name]
    return found


@pytest.fixture
def pool(instance: str) -> Iterator[tuple[str, Pool]]:
    """An instance without a daemon: its name, and its pool."""
    yield instance, Pool.open(instance_prefix(instance))


def _add(pool: Pool, name: str) -> Any:
    return pool.allocate(name.encode(), KIND_FAST, INT.tag, INT.encode(0))


def test_what_is_told_of_a_mutex(grt: str) -> None:
    assert Grt.snapshot() == []
    fast, k = Grt.register_fast_mutex("zähler", 300), Grt.register_kmutex("a", ["x" * 1000])
    Grt.register_critical_section("s")
    with fast.lock() as guard:
        guard.value += 1
        guard.commit()
        held = _only("zähler")
    free = _only("zähler")

    assert [info.name for info in Grt.snapshot()] == ["a", "s", "zähler"]
    assert [(info.kind, info.label) for info in Grt.snapshot()] == [("k", "list"), ("section", "-"), ("fast", "int")]
    assert (free.state, free.holder, free.waiters, free.abandoned_by) == ("free", None, (), None)
    assert (free.segment, free.slot, free.generation) == (fast.segment, fast.slot_index, fast.generation)
    assert [_only(mutex.name).statistics for mutex in (fast, k)] == [fast.statistics(), k.statistics()]
    assert free.statistics.commits == 1
    assert held.state == "held"
    assert held.holder is not None
    assert held.holder[:2] == (os.getpid(), threading.get_native_id())
    assert held.holder.command.split()
    assert held.holder.alive is True


def test_since_when_it_is_held_needs_no_other_observer(grt: str) -> None:
    mutex = Grt.register_kmutex("n", 0)
    kill_daemon(grt)
    with held_by_child(mutex):
        first = _only().holder
        second = _only().holder
        while second is not None and second.held_for == 0:
            second = _only().holder

    assert first is not None
    assert second is not None
    assert second.held_for >= first.held_for


def _hold_in_a_thread(line: Line, mutex: Any) -> None:
    def work() -> None:
        with open("/proc/thread-self/comm", "w", encoding="ascii") as file:
            file.write("collector")
        with mutex.lock():
            line.say(threading.get_native_id())
            line.hear()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def _wait(line: Line, mutex: Any) -> None:
    line.say()
    with mutex.lock():
        line.say("acquired")


@pytest.mark.slow
def test_holders_and_waiters_of_other_processes_until_they_are_killed(grt: str) -> None:
    mutex = Grt.register_fast_mutex("n", 0)
    Grt.register_fast_mutex("other", 0)
    with Child(_hold_in_a_thread, mutex) as holder:
        tid = holder.hear()
        with Child(_wait, mutex) as waiter:
            waiter.hear()
            waiting(mutex)
            info = _only()
            assert info.holder is not None
            assert (info.holder.pid, info.holder.tid, info.holder.thread) == (holder.pid, tid, "collector")
            assert [(found.pid, found.how) for found in info.waiters] == [(waiter.pid, "lock")]
            assert _only("other").waiters == ()
            waiter.kill()
            assert _only().waiters == ()
        holder.kill()
        info = _only()
        assert info.state == "abandoned"
        assert info.holder is not None
        assert (info.holder.pid, info.holder.alive) == (holder.pid, False)
        with mutex.lock():
            pass
        info = _only()
        assert (info.state, info.holder, info.abandoned_by) == ("free", None, holder.pid)
        assert info.statistics.abandoned == 1


def test_the_daemon_is_not_needed(grt: str) -> None:
    Grt.register_fast_mutex("n", 5)
    before = Grt.snapshot()
    kill_daemon(grt)

    assert Grt.snapshot() == before
    assert of_instance(grt) == before


def test_nothing_stays_open_or_mapped(pool: tuple[str, Pool]) -> None:
    instance, made = pool
    _add(made, "n")
    of_instance(instance)

    def kept() -> tuple[list[str], int]:
        with open("/proc/self/maps", encoding="utf-8") as file:
            maps = [line.split(maxsplit=5)[-1] for line in file if instance_prefix(instance) in line]
        return maps, sum(
            instance_prefix(instance) in os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.lexists(f"/proc/self/fd/{fd}")
        )

    before = kept()
    of_instance(instance)
    assert kept() == before


def test_there_is_no_grt(instance: str) -> None:
    with pytest.raises(GrtIsNull, match=f"wdkmutex-daemon start --instance {instance}") as caught:
        of_instance(instance)
    assert caught.value.instance == instance


def test_the_grt_was_destroyed(grt: str) -> None:
    Grt.register_fast_mutex("n", 0)
    Grt.destroy()
    with pytest.raises(GrtIsNull):
        of_instance(grt)


def test_the_pool_is_being_destroyed(pool: tuple[str, Pool]) -> None:
    instance, made = pool
    _add(made, "n")
    made.segments[0].flag_destroyed()
    with pytest.raises(GrtIsNull, match="is being destroyed"):
        of_instance(instance)


def test_a_name_that_is_just_overwritten_is_told_once(pool: tuple[str, Pool]) -> None:
    """Its allocator was killed between the new tenant's coming and the old one's going."""
    instance, made = pool
    refs = [_add(made, "n"), _add(made, "other"), _add(made, "n")]
    found = of_instance(instance)
    assert [(info.name, info.slot) for info in found] == [("n", refs[2].slot), ("other", refs[1].slot)]


@pytest.mark.parametrize(
    ("at", "bytes_"),
    [(KIND_AT, b"\x4d"), (NAME_LENGTH_AT, b"\xff"), (LABEL_LENGTH_AT, b"\xff"), (LENGTHS_AT, b"\xff" * 8)],
)
def test_a_damaged_slot_is_told_and_hides_no_other(pool: tuple[str, Pool], at: int, bytes_: bytes) -> None:
    instance, made = pool
    refs = [_add(made, name) for name in ("bad", "good")]
    write_shm(refs[0].segment, HEADER_BYTES + refs[0].slot * SLOT_BYTES + at, bytes_)
    found = {info.slot: info for info in of_instance(instance)}
    assert [found[ref.slot].state for ref in refs] == ["damaged", "free"]
    assert found[refs[0].slot].name.startswith("bad")
    assert found[refs[0].slot].kind == ("kind 77" if at == KIND_AT else "fast")


def test_bytes_that_are_no_utf8(pool: tuple[str, Pool]) -> None:
    instance, made = pool
    made.allocate(b"\xff\xfe", KIND_FAST, (INT.tag[0], INT.tag[1], b"\xff"), INT.encode(0))
    (info,) = of_instance(instance)
    assert (info.name, info.label) == ("\ufffd\ufffd", "\ufffd")


def test_another_pid_namespace_and_another_version(pool: tuple[str, Pool]) -> None:
    instance, made = pool
    name = made.segments[0].name
    raw = read_shm(name, 0, HEADER_BYTES)
    write_shm(name, PID_NAMESPACE_AT, struct.pack("=Q", 1))
    with pytest.raises(OtherPidNamespace):
        of_instance(instance)
    write_shm(name, 0, raw)
    write_shm(name, 8, struct.pack("=I", LAYOUT + 1))
    with pytest.raises(LayoutMismatch):
        of_instance(instance)
    write_shm(name, 0, raw)
    assert of_instance(instance) == []


def test_a_segment_that_was_not_published_is_the_end(pool: tuple[str, Pool]) -> None:
    instance, made = pool
    _add(made, "n")
    for size in (0, HEADER_BYTES):
        with open(shm.FOLDER + pool_segment(made.prefix, 1), "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.truncate(size)
        assert [info.name for info in of_instance(instance)] == ["n"]


def _made_again(made: list[Pool], prefix: str, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The next passes meet a pool that is destroyed and made again before they end."""
    real = snapshot.look

    def look(*args: Any) -> None:
        real(*args)
        made[-1].destroy()
        made.append(Pool.open(prefix))
        _add(made[-1], f"new{len(made)}")
        if len(made) > times:
            monkeypatch.setattr(snapshot, "look", real)

    monkeypatch.setattr(snapshot, "look", look)


def test_a_pool_that_is_made_again_meanwhile(pool: tuple[str, Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    instance, made = pool
    _add(made, "old")
    _made_again([made], made.prefix, monkeypatch, 3)
    assert [info.name for info in of_instance(instance)] == ["new4"]
    _made_again([Pool.open(made.prefix)], made.prefix, monkeypatch, 100)
    with pytest.raises(GrtIsNull, match="all the time"):
        of_instance(instance)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_a_segment_of_another_user_is_the_end_and_the_first_is_refused(pool: tuple[str, Pool]) -> None:
    instance, made = pool
    _add(made, "n")
    stranger = shm.FOLDER + pool_segment(made.prefix, 1)
    with open(stranger, "wb") as file:
        file.truncate(HEADER_BYTES)
    os.chown(stranger, 4711, -1)
    try:
        assert [info.name for info in of_instance(instance)] == ["n"]
        os.chown(shm.FOLDER + made.segments[0].name, 4711, -1)
        with pytest.raises(SegmentRefused):
            of_instance(instance)
    finally:
        os.chown(shm.FOLDER + made.segments[0].name, os.geteuid(), -1)
        os.unlink(stranger)


def test_without_a_free_descriptor(grt: str) -> None:
    Grt.register_fast_mutex("n", 0)
    Grt.snapshot()
    with no_descriptor(), pytest.raises(PagedPoolAllocFailed, match="ulimit -n"):
        Grt.snapshot()
    assert len(Grt.snapshot()) == 1


def test_what_is_anonymous_in_this_process(grt: str) -> None:
    before = len(anonymous_snapshot())
    mutexes = [KMutex("x"), FastMutex(1), CriticalSection()]
    box = KMutex([1, 2]).to_owned_box()
    with mutexes[0].lock():
        found = {(info.segment, info.slot): info for info in anonymous_snapshot()}
    assert len(found) == before + 4
    mine = [found[mutex.segment, mutex.slot_index] for mutex in mutexes]
    assert [(info.name, info.kind, info.state) for info in mine] == [
        ("", "k", "held"), ("", "fast", "free"), ("", "section", "free"),
    ]  # fmt: skip
    assert [info.kind for info in found.values()].count("box") >= 1
    box.close()
    assert len(anonymous_snapshot()) == before + 3
    assert Grt.snapshot() == []


def _churn(line: Line, instance: str) -> None:
    Grt.init(instance)
    line.say()
    for turn in range(1_000_000):
        if not line.silent(0):
            break
        names = [f"churn-{turn % 7}-{at}" for at in range(50)]
        Grt.register_many(FastMutex, dict.fromkeys(names, 0))
        Grt.register_many(KMutex, dict.fromkeys(names[::2], "text"))
        for name in names[::5]:
            Grt.unregister(name)
    line.say("done")


def _lock_all_the_time(line: Line, mutex: Any) -> None:
    line.say()
    while line.silent(0):
        for _ in range(1000):
            with mutex.lock() as guard:
                guard.value += 1
    line.say("done")


@pytest.mark.slow
def test_each_mutex_is_whole_and_told_once_whatever_happens_meanwhile(grt: str) -> None:
    stays = Grt.register_many(FastMutex, {f"stays-{at}": 0 for at in range(300)})
    mutex = stays["stays-250"]
    with Child(_churn, grt, method="spawn") as churn, Child(_lock_all_the_time, mutex) as locker:
        churn.hear()
        locker.hear()
        seen = set()
        acquisitions = 0
        for _ in range(100):
            found = Grt.snapshot()
            names = [info.name for info in found]
            assert len(set(names)) == len(names)
            assert names == sorted(names)
            assert sum(name.startswith("stays") for name in names) == 300
            assert {(info.kind, info.label) for info in found} <= {("fast", "int"), ("k", "str")}
            (info,) = [info for info in found if info.name == mutex.name]
            assert info.holder is None or (info.holder.pid, info.holder.alive) == (locker.pid, True)
            assert info.statistics.acquisitions >= acquisitions
            acquisitions = info.statistics.acquisitions
            seen.add(info.state)
        assert seen == {"held", "free"}
        assert acquisitions > 0
        for child in (churn, locker):
            child.say("stop")
            assert child.hear() == "done"
