"""The events and barriers of a crash-proof context."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest
from mp_peers import Alarm, Peer, asleep
from processes import Line, wait_until
from support import DEADLINE

from wdkmutex_shm import mp

# Children are forked while other threads run, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def _wait_event(line: Line, event: Any) -> None:
    line.say("waiting")
    line.say(event.wait(DEADLINE))


def test_an_event(context: Any) -> None:
    event = context.Event()
    assert not event.wait(0.01)
    with Peer(context, _wait_event, event) as child:
        child.hear()
        event.set()
        assert child.hear() is True
    assert event.is_set()
    assert "set" in repr(event)
    event.set()
    event.clear()
    event.clear()
    assert not event.is_set()


def test_an_event_that_was_set_for_an_instant_is_not_missed(fork: Any) -> None:
    event = fork.Event()
    with Peer(fork, _wait_event, event) as child:
        child.hear()
        wait_until(lambda: asleep(child.pid), "it waits")
        child.stop()
        event.set()
        event.clear()
        child.proceed()
        assert child.hear() is True


def _arrive(line: Line, barrier: Any) -> None:
    try:
        line.say(barrier.wait())
    except threading.BrokenBarrierError:
        line.say("broken")
    line.hear(3600)


def test_a_barrier(context: Any) -> None:
    barrier = context.Barrier(3)
    with Peer(context, _arrive, barrier) as one, Peer(context, _arrive, barrier) as other:
        assert sorted([barrier.wait(DEADLINE), one.hear(), other.hear()]) == [0, 1, 2]
    assert barrier.n_waiting == 0
    assert not barrier.broken


def test_who_dies_at_a_barrier_breaks_it(context: Any, fork: Any) -> None:
    barrier = context.Barrier(3)
    with Peer(context, _arrive, barrier) as one, Peer(context, _arrive, barrier) as other:
        wait_until(lambda: barrier.n_waiting == 2, "both wait")
        one.kill()
        assert other.hear() == "broken"
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    with Peer(fork, _arrive, barrier) as one, Peer(fork, _arrive, barrier) as other:
        barrier.wait(DEADLINE)
        assert one.hear() != other.hear()


def _stay() -> None:
    signal.pause()


def test_who_dies_in_the_action_breaks_the_barrier(fork: Any) -> None:
    barrier = fork.Barrier(2, _stay)
    with Peer(fork, _arrive, barrier) as one:
        wait_until(lambda: barrier.n_waiting == 1, "one waits")
        with Peer(fork, _arrive, barrier) as actor:
            wait_until(lambda: barrier._cell.peek()[1] == 1, "the action runs")
            actor.kill()
        assert one.hear() == "broken"


def test_abort_breaks_a_barrier_that_opens_just_then(fork: Any, monkeypatch: Any) -> None:
    barrier = fork.Barrier(1)
    real, passed = mp.barrier.changed, []

    def changed(cell: Any, change: Any) -> Any:
        if not passed:
            passed.append(True)
            barrier.wait()  # the round that was there when abort() was called is over
        return real(cell, change)

    monkeypatch.setattr(mp.barrier, "changed", changed)
    barrier.abort()
    assert barrier.broken


def _arrive_within(line: Line, barrier: Any, timeout: float) -> None:
    try:
        line.say(barrier.wait(timeout))
    except threading.BrokenBarrierError:
        line.say("broken")
    line.hear(3600)


class _Action:
    """An action that goes on until it is told to end."""

    def __init__(self, begun: Any, end: Any) -> None:
        self.begun, self.end = begun, end

    def __call__(self) -> None:
        self.begun.set()
        assert self.end.wait(DEADLINE)


def test_whose_time_is_up_while_the_action_runs_waits_for_its_end(fork: Any) -> None:
    action = _Action(fork.Event(), fork.Event())
    barrier = fork.Barrier(2, action)
    with Peer(fork, _arrive_within, barrier, 0.5) as one:
        wait_until(lambda: barrier.n_waiting == 1, "one waits")
        with Peer(fork, _arrive_within, barrier, DEADLINE) as actor:
            assert action.begun.wait(DEADLINE)
            assert one.silent(1)
            action.end.set()
            assert {one.hear(), actor.hear()} == {0, 1}


def test_the_last_to_arrive_sees_who_died_before(fork: Any) -> None:
    barrier = fork.Barrier(2)
    with Peer(fork, _arrive, barrier) as one:
        wait_until(lambda: barrier.n_waiting == 1, "one waits")
        one.kill()
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(DEADLINE)
    assert barrier.broken


def test_an_interrupted_arrival_breaks_the_barrier(fork: Any, monkeypatch: Any) -> None:
    barrier = fork.Barrier(2)
    real = mp.barrier.changed

    def changed(cell: Any, change: Any) -> Any:
        real(cell, change)
        monkeypatch.undo()
        raise Alarm

    monkeypatch.setattr(mp.barrier, "changed", changed)
    with pytest.raises(Alarm):
        barrier.wait(DEADLINE)
    assert barrier.broken
