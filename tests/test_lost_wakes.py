"""A waiter that was woken and is dead or stopped has the wake of the others: who passes it by wakes the next."""

from __future__ import annotations

from typing import Any

import pytest
from kinds import KINDS, Hold, acquire, attempt, make
from procs import STARVING_AT, Child, Line, read_shm, slot_offset
from support import wait_until

WAITERS = 0x80000000


def number_at(mutex: Any, field: int) -> int:
    return int.from_bytes(read_shm(mutex.segment, slot_offset(mutex, field), 4), "little")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", ["waiting", "trying"])
def test_who_takes_the_lock_past_those_who_did_not_come_wakes_one(kind: str, by: str) -> None:
    mutex = make(kind)

    def wait(line: Line) -> None:
        with acquire(mutex, 30):
            line.say()

    def take() -> Hold | None:
        return acquire(mutex, 30) if by == "waiting" else attempt(mutex)

    held = acquire(mutex)
    with Child(wait) as child:
        wait_until(lambda: number_at(mutex, STARVING_AT) == 1)
        child.stop()
        held.release()
        with wait_until(take):
            assert number_at(mutex, 0) & WAITERS
            assert number_at(mutex, STARVING_AT) == 0
        child.proceed()
        child.hear()
        acquire(mutex, 30).release()
