"""The conditions of a crash-proof context: a notification is not lost with a waiter that is killed."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from mp_peers import Alarm, Peer, asleep
from processes import Line, wait_until

from wdkmutex_shm.mp import locks
from wdkmutex_shm.mp.condition import _bury

# Children are forked while other threads run, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def _wait_condition(line: Line, condition: Any, timeout: float | None = None) -> None:
    with condition:
        line.say("waiting")
        told = condition.wait(timeout)
        line.say(told)
    line.hear(3600)


def _listed(condition: Any, count: int) -> None:
    wait_until(lambda: condition._sleeping_count.get_value() == count, f"{count} wait")


@contextlib.contextmanager
def _two_waiting(context: Any, condition: Any) -> Iterator[tuple[Peer, Peer]]:
    with Peer(context, _wait_condition, condition) as first:
        first.hear()
        _listed(condition, 1)
        with Peer(context, _wait_condition, condition) as second:
            second.hear()
            _listed(condition, 2)
            yield first, second


@pytest.mark.parametrize("inner", ["Lock", "RLock"])
def test_a_killed_waiter_does_not_eat_a_notification(context: Any, inner: str) -> None:
    condition = context.Condition(getattr(context, inner)())
    with _two_waiting(context, condition) as (first, second):
        first.kill()
        with condition:
            condition.notify()
        assert second.hear() is True


def test_a_notification_is_handed_on_by_the_dead(fork: Any) -> None:
    condition = fork.Condition()
    with _two_waiting(fork, condition) as (first, second):
        with condition:
            condition.notify()
            assert condition._wait_semaphore.get_value() == 1
            first.kill()  # notified, but without the lock
        assert second.hear() is True
        wait_until(lambda: condition._sleeping_count.get_value() == 0)


def test_a_notifier_is_killed(fork: Any) -> None:
    condition = fork.Condition()
    with Peer(fork, _wait_condition, condition) as waiter:
        waiter.hear()
        _listed(condition, 1)
        with Peer(fork, _notify_and_stay, condition) as notifier:
            notifier.hear()
            notifier.kill()  # it holds the lock
        assert waiter.hear() is True


def _notify_and_stay(line: Line, condition: Any) -> None:
    condition.acquire()
    condition.notify_all()
    line.say("notified")
    line.hear(3600)


def test_a_condition_keeps_its_lock_and_depth(fork: Any) -> None:
    condition = fork.Condition()
    with condition, condition:
        assert not condition.wait(0.01)
        assert condition._lock._count() == 2
        assert condition.wait_for(lambda: 5, 1) == 5
        assert condition.wait_for(lambda: 0, 0.01) == 0
    with pytest.raises(AssertionError, match="must acquire"):
        condition.wait(0)
    with pytest.raises(AssertionError, match="not owned"):
        condition.notify()


def _interrupted_condition(line: Line, condition: Any) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with condition:
        line.say("waiting")
        try:
            condition.wait()
        except KeyboardInterrupt:
            line.say(condition._lock._is_mine())
    line.hear(3600)


def test_ctrl_c_in_a_condition_leaves_no_waiter(fork: Any) -> None:
    condition = fork.Condition()
    with Peer(fork, _interrupted_condition, condition) as child:
        child.hear()
        _listed(condition, 1)
        child.signal(signal.SIGINT)
        assert child.hear() is True
        wait_until(lambda: condition._sleeping_count.get_value() == 0)


def test_a_condition_of_multiprocessings_own_lock(fork: Any) -> None:
    import multiprocessing

    condition = fork.Condition(multiprocessing.get_context("fork").RLock())
    with Peer(fork, _wait_condition, condition) as child:
        child.hear()
        _listed(condition, 1)
        with condition:
            condition.notify_all()
        assert child.hear() is True


def _alarmed(line: Line, condition: Any) -> None:
    def alarm(*_: object) -> None:
        raise Alarm

    signal.signal(signal.SIGUSR1, alarm)
    with condition:
        line.say("waiting")
        try:
            condition.wait()
        except Alarm:
            line.say(condition._lock._is_mine())
    line.say(condition._lock.locked())
    line.hear(3600)


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_what_a_signal_handler_raises_while_a_condition_takes_its_lock_again(fork: Any, kind: str) -> None:
    condition = fork.Condition(getattr(fork, kind)())
    with Peer(fork, _alarmed, condition) as child:
        child.hear()
        with condition:
            _listed(condition, 1)
            condition.notify_all()
            wait_until(lambda: asleep(child.pid), "it waits for the lock")
            child.signal(signal.SIGUSR1)
            assert child.silent(0.3)
        assert child.hear() is True
        assert child.hear() is False


def test_what_a_signal_handler_raises_right_after_a_lock_was_taken_back(fork: Any, monkeypatch: Any) -> None:
    lock = fork.Lock()
    condition = fork.Condition(lock)
    had = locks._Restore.take

    def take(attempt: Any, first: bool) -> Any:
        assert had(attempt, first)
        raise Alarm

    monkeypatch.setattr(locks._Restore, "take", take)
    lock.acquire()
    with pytest.raises(Alarm):
        condition.wait(0.01)
    assert lock._is_mine()
    lock.release()
    assert not lock.locked()


def _raise_once(monkeypatch: Any, where: Any, name: str, when: Any) -> None:
    """Let a method raise Alarm before it does anything, as a signal handler does, the first time that ``when()``."""
    real, raised = getattr(where, name), []

    def method(*args: Any) -> Any:
        if not raised and when():
            raised.append(True)
            raise Alarm
        return real(*args)

    monkeypatch.setattr(where, name, method)


def test_what_a_signal_handler_raises_before_a_waiter_is_struck_off(fork: Any, monkeypatch: Any) -> None:
    condition = fork.Condition()
    leaving: list[bool] = []
    real = condition._cell.change.__func__

    def change(cell: Any, alter: Any) -> Any:
        if cell.peek() and alter is not _bury and not leaving:
            leaving.append(True)
            raise Alarm
        return real(cell, alter)

    monkeypatch.setattr(type(condition._cell), "change", change)
    with condition:
        with pytest.raises(Alarm):
            condition.wait(0.01)
        assert condition._lock._is_mine()
    assert leaving
    assert condition._sleeping_count.get_value() == 0


def test_what_a_signal_handler_raises_before_a_lock_is_taken_back(fork: Any, monkeypatch: Any) -> None:
    lock = fork.Lock()
    condition = fork.Condition(lock)
    with lock:
        _raise_once(monkeypatch, lock, "_is_mine", lambda: not lock.locked())
        with pytest.raises(Alarm):
            condition.wait(0.01)
        assert lock.locked()
        assert lock._is_mine()
    assert not lock.locked()
