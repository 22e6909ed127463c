"""A waiter that was woken and is dead or stopped has the wake of the others: who passes it by wakes the next. And a
waiter that starves counts until it has the lock."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from kinds import KINDS, Hold, acquire, attempt, make
from processes import STARVING_AT, Child, Line, read_shm, slot_offset
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


@pytest.mark.parametrize("kind", KINDS)
def test_the_child_that_a_waiters_signal_handler_forks_does_not_end_its_wait(kind: str) -> None:
    mutex = make(kind)

    def wait(line: Line) -> None:
        def fork(*_: object) -> None:
            pid = os.fork()
            if pid == 0:
                raise KeyError
            os.waitpid(pid, 0)
            line.say(number_at(mutex, STARVING_AT))

        signal.signal(signal.SIGUSR1, fork)
        try:
            with acquire(mutex, 30):
                line.say()
        except KeyError:
            os._exit(0)

    held = acquire(mutex)
    with Child(wait) as child:
        wait_until(lambda: number_at(mutex, STARVING_AT) == 1)
        child.signal(signal.SIGUSR1)
        assert child.hear() == 1
        held.release()
        child.hear()
    assert number_at(mutex, STARVING_AT) == 0
