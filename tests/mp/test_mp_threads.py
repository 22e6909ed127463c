"""Barriers and conditions of a crash-proof context between threads of one process."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from threading import BrokenBarrierError
from typing import Any

import pytest
from processes import Worker
from support import DEADLINE, wait_until

from wdkmutex_shm import mp

FORK = mp.get_context("fork")


# --- Barrier


def _arrive(line: Any, barrier: Any, timeout: float | None = None) -> None:
    try:
        line.say(barrier.wait(timeout))
    except BrokenBarrierError:
        line.say("broken")


def test_a_barrier_of_threads() -> None:
    acted: list[int] = []
    barrier = FORK.Barrier(3, lambda: acted.append(1))
    for rounds in (1, 2):
        with Worker(_arrive, barrier) as one, Worker(_arrive, barrier) as other:
            wait_until(lambda: barrier.n_waiting == 2)
            assert "waiters=2/3" in repr(barrier)
            assert sorted((barrier.wait(), one.hear(), other.hear())) == [0, 1, 2]
        assert len(acted) == rounds
        assert barrier.n_waiting == 0


def test_time_is_up_at_a_barrier() -> None:
    barrier = FORK.Barrier(2)
    with Worker(_arrive, barrier) as other:
        wait_until(lambda: barrier.n_waiting == 1)
        barrier.abort()
        barrier.abort()
        assert other.hear() == "broken"
    with pytest.raises(BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    barrier.reset()
    with pytest.raises(BrokenBarrierError):
        barrier.wait(0.01)
    assert barrier.broken
    assert "broken" in repr(barrier)


def test_a_reset_while_somebody_waits() -> None:
    barrier = FORK.Barrier(2)
    with Worker(_arrive, barrier) as other:
        wait_until(lambda: barrier.n_waiting == 1)
        barrier.reset()
        assert other.hear() == "broken"
    with Worker(_arrive, barrier) as other:
        assert sorted((barrier.wait(DEADLINE), other.hear())) == [0, 1]


def test_an_action_that_fails() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    barrier = FORK.Barrier(2, fail)
    with Worker(_arrive, barrier) as other:
        wait_until(lambda: barrier.n_waiting == 1)
        with pytest.raises(ZeroDivisionError):
            barrier.wait()
        assert other.hear() == "broken"


def test_who_comes_while_the_action_runs() -> None:
    """It belongs to the next round, and waits for the action to end; if its time is up first, nobody gets through."""
    go_on, begun = threading.Event(), threading.Event()

    def act() -> None:
        begun.set()
        assert go_on.wait(DEADLINE)

    barrier = FORK.Barrier(1, act)
    with Worker(_arrive, barrier) as first:
        assert begun.wait(DEADLINE)
        assert barrier.n_waiting == 0
        with Worker(_arrive, barrier) as second:
            assert second.silent(0.05)
            go_on.set()
            assert (first.hear(), second.hear()) == (0, 0)
    go_on.clear(), begun.clear()
    with Worker(_arrive, barrier) as first:
        assert begun.wait(DEADLINE)
        with pytest.raises(BrokenBarrierError):
            barrier.wait(0.3)  # it looks for the dead meanwhile, and finds none
        go_on.set()
        assert first.hear() == "broken"


def test_all_come_in_the_last_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's time is up, and before that breaks the barrier the last one arrives: it is open."""
    barrier = FORK.Barrier(2)
    came: list[int] = []

    def last_comes() -> None:
        monkeypatch.undo()
        came.append(barrier.wait())

    monkeypatch.setattr(barrier, "_look_for_dead", last_comes)
    assert barrier.wait(0) == 0
    assert came == [1]
    assert not barrier.broken


# --- Condition


def _wait_in(line: Any, condition: Any, timeout: float | None = None) -> None:
    with condition:
        line.say("waits")
        line.say(condition.wait(timeout))


@pytest.mark.parametrize("make", [lambda: None, FORK.Lock, multiprocessing.RLock, multiprocessing.Lock])
def test_a_condition_of_threads(make: Callable[[], Any]) -> None:
    condition = FORK.Condition(make())
    with Worker(_wait_in, condition) as one, Worker(_wait_in, condition) as other:
        assert one.hear() == other.hear() == "waits"
        wait_until(lambda: condition._sleeping_count.get_value() == 2)
        with condition:
            condition.notify()
            condition.notify(0)
            assert condition._wait_semaphore.get_value() == 1
        with condition:
            condition.notify_all()
        assert one.hear() is other.hear() is True
    with condition:
        condition.notify()  # nobody is there
        assert condition.wait(0.01) is False
        assert condition.wait(-1) is False
    assert condition._sleeping_count.get_value() == condition._woken_count.get_value() == 0


def test_a_condition_gives_up_all_depth_of_its_lock() -> None:
    condition = FORK.Condition(multiprocessing.RLock())
    with condition, condition:
        with Worker(_tell, condition) as other:
            assert condition.wait(DEADLINE)
            assert other.hear() == "told"
        condition.release()
        assert condition._lock._semlock._is_mine()
        condition.acquire()


def _tell(line: Any, condition: Any) -> None:
    with condition:
        condition.notify()
    line.say("told")


def test_waiting_for_a_predicate() -> None:
    condition = FORK.Condition()
    there: list[int] = []

    def come(line: Any) -> None:
        for number in (1, 2):
            wait_until(lambda: condition._sleeping_count.get_value() == 1)
            with condition:
                there.append(number)
                condition.notify()

    with condition, Worker(come):
        assert condition.wait_for(lambda: len(there) == 2 and there) == [1, 2]
        assert condition.wait_for(lambda: "at once")
        assert condition.wait_for(lambda: None, 0.01) is None
        assert condition.wait_for(lambda: 0, -1) == 0


def test_a_waiter_that_was_struck_off_has_been_told() -> None:
    """Its entry is gone, as a restart of the state makes it: it does not sleep for ever."""
    condition = FORK.Condition()
    with Worker(_wait_in, condition) as other:
        assert other.hear() == "waits"
        wait_until(lambda: condition._sleeping_count.get_value() == 1)
        with condition:
            condition._cell.change(lambda state: state.clear() or True)
        assert other.hear() is False
