"""peek(): the last committed T, whoever holds the lock, whatever happens to them, and without stopping anybody."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from processes import Child, Line, Worker, held_by_child, slot_offset, waiters, write_shm

from wdkmutex_shm import MutexDamaged, MutexDestroyed, raise_irql
from wdkmutex_shm.memory import shm


def test_shows_what_is_committed_only(cls: Any) -> None:
    mutex = cls({"a": 1})
    with mutex.lock() as guard:
        guard.value["a"] = 2
        assert mutex.peek() == {"a": 1}
        guard.commit()
        assert mutex.peek() == {"a": 2}
        guard.value["a"] = 3
        guard.rollback()
    assert mutex.peek() == {"a": 2}


def test_gives_a_copy(cls: Any) -> None:
    mutex = cls([1])
    mutex.peek().append(2)
    assert mutex.peek() == [1]


def test_counts_nothing(cls: Any) -> None:
    mutex = cls(1)
    for _ in range(10):
        mutex.peek()
    assert mutex.statistics().acquisitions == 0
    assert waiters(mutex) == 0


@pytest.mark.parametrize("size", [10, 10_000, 3_000_000])
def test_while_another_process_holds_stops_or_dies(cls: Any, size: int) -> None:
    mutex = cls(b"x" * size)
    with held_by_child(mutex) as child:
        assert len(mutex.peek()) == size
        child.stop()
        assert len(mutex.peek()) == size
        child.kill()
        assert len(mutex.peek()) == size
        assert mutex.owner is not None
        assert not mutex.owner.alive
    assert len(mutex.peek()) == size


def test_at_any_level(cls: Any) -> None:
    mutex = cls(1)
    with raise_irql(15):
        assert mutex.peek() == 1
        assert mutex.owner is None
        assert mutex.statistics().acquisitions == 0
        assert "free" in repr(mutex)


def test_after_the_end(cls: Any) -> None:
    for value in (1, b"x" * 10_000):
        mutex = cls(value)
        other = mutex.__reduce__()
        mutex.to_owned()
        with pytest.raises(MutexDestroyed):
            mutex.peek()
        with pytest.raises(MutexDestroyed):
            other[0](*other[1])


def _summed(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest() + body


def _write(line: Line, mutex: Any, sizes: list[int]) -> None:
    line.say("ready")
    number = 0
    while line.silent(0):
        for size in sizes:
            number += 1
            with mutex.lock() as guard:
                guard.value = _summed(bytes([number % 256]) * size)


@pytest.mark.parametrize("sizes", [[1, 20, 50], [0, 100, 40, 9000], [2_000_000, 1_200_000]], ids=str)
@pytest.mark.parametrize("where", ["process", "thread"])
def test_never_a_mix_of_two(cls: Any, sizes: list[int], where: str) -> None:
    mutex = cls(_summed(b""))
    with (Child if where == "process" else Worker)(_write, mutex, sizes) as writer:
        writer.hear()
        seen: set[bytes] = set()
        looks = 0
        while looks < 300 or len(seen) < 3:
            value = mutex.peek()
            assert _summed(value[16:]) == value
            seen.add(value[:16])
            looks += 1
        writer.say("enough")


def test_damage_is_told_and_can_be_mended(cls: Any) -> None:
    mutex = cls("text")
    write_shm(mutex.segment, slot_offset(mutex, 128), b"\xa4\xff\xff\xff\xff" * 2 + bytes(62))
    write_shm(mutex.segment, slot_offset(mutex, 128 + 72), b"\xa4\xff\xff\xff\xff")
    with pytest.raises(MutexDamaged):
        mutex.peek()
    with mutex.lock() as guard, pytest.raises(MutexDamaged):
        guard.value
    with pytest.raises(MutexDamaged):
        mutex.to_owned()
    assert mutex.owner is None
    assert mutex.replace("whole") is None
    assert mutex.peek() == "whole"
    with mutex.lock() as guard:
        guard.value += "!"
    assert mutex.peek() == "whole!"


@pytest.mark.parametrize("how", ["gone", "short", "not one"])
def test_damage_of_a_data_segment(cls: Any, how: str) -> None:
    mutex = cls(b"x" * 5000)
    segment = mutex.segment.rpartition(".")[0] + ".d"
    (name,) = (name for name in shm.listing(segment) if _id_of(mutex) in name)
    if how == "gone":
        shm.unlink(name)
    elif how == "short":
        with open(shm.FOLDER + name, "r+b") as file:
            file.truncate(10)
    else:
        write_shm(name, 0, bytes(64))
    with pytest.raises(MutexDamaged):
        mutex.peek()
    with mutex.lock() as guard, pytest.raises(MutexDamaged):
        guard.value
    assert mutex.replace(b"y" * 9000) is None
    assert mutex.peek() == b"y" * 9000


def _id_of(mutex: Any) -> str:
    import struct

    from processes import read_shm

    ids = struct.unpack("=QQ", read_shm(mutex.segment, slot_offset(mutex, 96), 16))
    return f"{max(ids):016x}"
