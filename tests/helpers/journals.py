"""What tests of several mutexes that are published as one share: a process that dies in the midst of that."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import Any

from processes import Child, Line, read_shm, slot_offset, write_shm

from wdkmutex_shm import lock_all
from wdkmutex_shm.base import layout
from wdkmutex_shm.base.identity import pid_namespace, start_time
from wdkmutex_shm.base.names import process_prefix

COMMIT_AT, LENGTH_AT, PENDING_AT, PAYLOAD_AT, INLINE = 72, 88, 280, 128, 72
OLD, NEW = 10, 20


def word(mutex: Any, field: int) -> int:
    (found,) = struct.unpack("=Q", read_shm(mutex.segment, slot_offset(mutex, field), 8))
    return int(found)


def store(mutex: Any, field: int, value: int) -> None:
    write_shm(mutex.segment, slot_offset(mutex, field), struct.pack("=Q", value))


def journal_of(pid: int) -> str:
    start = start_time(pid)
    assert start is not None
    return process_prefix(pid, start, pid_namespace()) + ".j"


def _publish_once_and_hold(line: Line, mutexes: list[Any]) -> None:
    with lock_all(*mutexes) as guards:
        for guard in guards:
            guard.value = OLD
    with lock_all(*mutexes):
        line.say()
        line.hear()


def steps(mutexes: list[Any], pid: int) -> Iterator[Any]:
    """The stores of a publication, one by one, as `slot.h` has their order."""
    note = layout.NOTE | pid << layout.NOTE_PID | (start_time(pid) or 0)
    for mutex in mutexes:
        coming = word(mutex, COMMIT_AT) + 1 & 1
        yield lambda mutex=mutex, coming=coming: store(mutex, PENDING_AT, note | coming << layout.NOTE_COMMIT)
    yield lambda: write_shm(journal_of(pid), 8, struct.pack("=Q", 1))
    for mutex in mutexes:
        yield lambda mutex=mutex: store(mutex, COMMIT_AT, word(mutex, COMMIT_AT) + 1)
    for mutex in mutexes:
        yield lambda mutex=mutex: store(mutex, PENDING_AT, 0)
    yield lambda: write_shm(journal_of(pid), 8, struct.pack("=Q", 0))


def die_after(mutexes: list[Any], done: int) -> Child:
    """A process that is killed after so many stores of publishing NEW in all of the mutexes."""
    child = Child(_publish_once_and_hold, mutexes)
    child.hear()
    for mutex in mutexes:
        buffer = word(mutex, COMMIT_AT) + 1 & 1
        write_shm(mutex.segment, slot_offset(mutex, PAYLOAD_AT + INLINE * buffer), bytes([NEW]))
        write_shm(mutex.segment, slot_offset(mutex, LENGTH_AT + 4 * buffer), struct.pack("=I", 1))
    for step in itertools.islice(steps(mutexes, child.pid), done):
        step()
    child.kill()
    return child


COUNT = 3
STEPS = 3 * COUNT + 2
