"""peek() beside writers without a pause, and of a large T: bounded, whole, and about as fast as locking and reading."""

from __future__ import annotations

import itertools
import os
import resource
import time
from typing import Any

import pytest
from processes import Child, Line
from support import Fork

from wdkmutex_shm import FastMutex, KMutex, PagedPoolAllocFailed, raise_irql
from wdkmutex_shm.memory import shm


@pytest.mark.slow
@pytest.mark.parametrize("size", [60, 200_000, 2_000_000])
@pytest.mark.parametrize("kind", [KMutex, FastMutex])
def test_beside_writers_without_pause(kind: Any, size: int) -> None:
    mutex = kind(b"\0" * size)
    read, write = os.pipe()

    def overwrite() -> None:
        values = [bytes([number]) * (size - number) for number in range(3)]
        os.write(write, b".")
        while True:
            for value in values:
                with mutex.lock() as guard:
                    guard.value = value

    with Fork(overwrite), Fork(overwrite):
        os.read(read, 1)
        os.read(read, 1)
        until = time.monotonic() + 0.5
        for _ in range(5):
            value = mutex.peek()
            assert value == value[:1] * len(value)
            assert len(value) == size - value[0]
        with raise_irql(15):
            while time.monotonic() < until:
                value = mutex.peek()
                assert value == value[:1] * len(value)
    os.close(read)
    os.close(write)


@pytest.mark.parametrize(
    "value",
    [b"x" * 1023, b"\xff" * 1024, b"y" * 65538, b"z" * 65539, b"w" * 3_000_000, b"v" * 65535, b"u" * 65536]
    + ["a" * 1023, "b" * 1024, "c" * 65535, "d" * 65536, "\u00e9" * 40_000, "e" * 70_000 + "\u20ac", "f" * 3_000_000]
    + ["g" * (40_000 + at) + "\u00e9" + "g" * 40_000 for at in range(0, 32, 5)],
    ids=lambda value: f"{type(value).__name__}-{len(value)}-{ascii(value[-1:])}",
)
def test_a_large_t_is_what_was_committed(value: bytes | str) -> None:
    mutex: Any = KMutex(value)
    assert mutex.peek() == value
    assert type(mutex.peek()) is type(value)
    with mutex.lock() as guard:
        guard.value = value[1:]
    assert mutex.peek() == value[1:]


@pytest.mark.slow
def test_a_large_t_is_not_mapped_and_unmapped_at_each_peek() -> None:
    """It took eight times as long as locking and reading. The best of many, so that a busy machine does not matter."""
    mutex = KMutex(b"x" * 200_000)

    def read() -> bytes:
        with mutex.lock() as guard:
            return guard.value

    def best(work: Any) -> float:
        taken = []
        for _ in range(300):
            started = time.perf_counter()
            work()
            taken.append(time.perf_counter() - started)
        return min(taken)

    assert best(mutex.peek) < 2.5 * best(read)


def test_no_descriptor_is_free_while_the_lock_is_had_for_the_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be opened then was taken for gone: MutexDamaged."""
    mutex = FastMutex(b"x" * 20_000)

    def commit(line: Line) -> None:
        for size in itertools.cycle((20_000, 800_000, 800_000, 20_000)):  # a new data segment each time
            line.hear()
            mutex.replace(b"x" * size)
            line.say()

    tries = 0
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Child(commit) as child:

        def open_segment(name: str) -> int:
            nonlocal tries
            fd = opens(name)
            child.say()
            child.hear()
            tries += 1
            if tries == 64:  # _peek.LOCK_FREE
                resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            return fd

        opens = shm.open_segment
        monkeypatch.setattr(shm, "open_segment", open_segment)
        try:
            with pytest.raises(PagedPoolAllocFailed, match="open files"):
                mutex.peek()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            monkeypatch.undo()
    assert tries == 64
    assert len(mutex.replace(b"")) > 1
