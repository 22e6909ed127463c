"""One suite over every kind of mutex, anonymous and registered: who gets the lock, and what the others are told."""

from __future__ import annotations

import math
import os
import signal
import time
from typing import Any

import pytest
from kinds import acquire, attempt, is_to_be_had, take
from processes import Child, Line, Worker, held_by_child, in_thread, wait_for_waiter
from support import wait_until

from wdkmutex_shm import LockTimeout, WdkMutexError


def test_free(mutex: Any) -> None:
    assert mutex.owner is None
    assert "free" in repr(mutex)
    assert take(mutex) == (False, None)
    assert is_to_be_had(mutex)
    assert mutex.owner is None
    assert mutex.statistics().acquisitions == 2
    assert mutex.statistics().contended == mutex.statistics().abandoned == 0
    assert not mutex.destroyed


def test_held_by_me_is_seen(mutex: Any) -> None:
    with acquire(mutex):
        assert mutex.owner.pid == os.getpid()
        assert mutex.owner.alive
        assert f"held by process {os.getpid()}" in repr(mutex)


def test_held_by_another_thread(mutex: Any) -> None:
    with acquire(mutex):
        assert in_thread(is_to_be_had, mutex) is False
        error = in_thread(_error_of, mutex, 0.01)
        assert type(error) is LockTimeout
        assert error.owner_pid == os.getpid()
        assert error.timeout == 0.01
        assert "this process" in str(error)
    assert in_thread(is_to_be_had, mutex) is True


def _error_of(mutex: Any, timeout: float) -> WdkMutexError | None:
    try:
        acquire(mutex, timeout).release()
    except WdkMutexError as error:
        return error
    return None


def test_waiting_thread_gets_it_on_release(mutex: Any) -> None:
    def work(line: Line) -> None:
        with acquire(mutex):
            line.say("got it")

    hold = acquire(mutex)
    with Worker(work) as worker:
        wait_for_waiter(mutex)
        hold.release()
        assert worker.hear() == "got it"
    assert mutex.statistics().contended == 1


def test_held_by_another_process(mutex: Any) -> None:
    with held_by_child(mutex) as child:
        assert not is_to_be_had(mutex)
        with pytest.raises(LockTimeout) as caught:
            acquire(mutex, 0.01)
        assert caught.value.owner_pid == child.pid
        assert caught.value.owner_tid == child.pid
        assert f"process {child.pid}" in str(caught.value)
        assert mutex.owner.pid == child.pid
        assert "python" in mutex.owner.command
        child.say("release")
        child.hear()
        assert take(mutex) == (False, None)


def test_waiting_process_gets_it_on_release(mutex: Any) -> None:
    hold = acquire(mutex)
    with Child(_wait_and_say, mutex) as child:
        wait_for_waiter(mutex)
        hold.release()
        assert child.hear() == (False, None)


def _wait_and_say(line: Line, mutex: Any) -> None:
    line.say(take(mutex))


def test_owner_killed(mutex: Any) -> None:
    with held_by_child(mutex) as child:
        child.kill()
        assert mutex.owner.alive is False
        assert mutex.owner.pid == child.pid
        assert "abandoned" in repr(mutex)
        started = time.monotonic()
        assert take(mutex) == (True, child.pid)
        assert time.monotonic() - started < 1
    assert take(mutex) == (False, None)
    assert mutex.statistics().abandoned == 1


def test_owner_killed_while_another_waits(mutex: Any) -> None:
    with held_by_child(mutex) as child, Child(_wait_and_say, mutex) as waiter:
        wait_for_waiter(mutex)
        child.kill()
        assert waiter.hear() == (True, child.pid)


def test_try_takes_over_from_the_dead(mutex: Any) -> None:
    with held_by_child(mutex) as child:
        child.kill()
    hold = attempt(mutex)
    assert hold is not None
    assert hold.abandoned
    assert hold.abandoned_by == child.pid
    hold.release()


def test_owner_exits_without_release(mutex: Any) -> None:
    with Child(_exit_while_holding, mutex) as child:
        child.hear()
        assert child.end() == 3
        assert take(mutex, 5) == (True, child.pid)


def _exit_while_holding(line: Line, mutex: Any) -> None:
    hold = acquire(mutex)
    line.say(hold.abandoned)
    os._exit(3)


def test_thread_ends_while_holding(mutex: Any) -> None:
    kept: list[Any] = []
    in_thread(lambda: kept.append(acquire(mutex)))
    assert take(mutex, 5) == (True, os.getpid())
    assert take(mutex, 5) == (False, None)
    kept.clear()
    assert take(mutex, 5) == (False, None)


def test_two_owners_die_in_turn(mutex: Any) -> None:
    for _ in range(3):
        with held_by_child(mutex) as child:
            child.kill()
    assert take(mutex) == (True, child.pid)
    assert mutex.statistics().abandoned == 3


@pytest.mark.parametrize("timeout", [0, 0.0, 1e-9, 0.01])
def test_timeout_passes(mutex: Any, timeout: float) -> None:
    with held_by_child(mutex):
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            acquire(mutex, timeout)
        assert time.monotonic() - started < timeout + 2
    assert mutex.statistics().timeouts == 1


@pytest.mark.parametrize("timeout", [None, math.inf, 1e300, 0, 0.01, 5])
def test_timeout_of_a_free_lock(mutex: Any, timeout: float | None) -> None:
    assert take(mutex, timeout) == (False, None)


@pytest.mark.parametrize("timeout", [-1, -0.001, -math.inf, math.nan])
def test_impossible_timeout(mutex: Any, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        acquire(mutex, timeout)
    assert is_to_be_had(mutex)


@pytest.mark.parametrize("timeout", ["1", [], object()])
def test_timeout_of_a_wrong_type(mutex: Any, timeout: Any) -> None:
    with pytest.raises(TypeError):
        acquire(mutex, timeout)
    assert is_to_be_had(mutex)


def test_timeout_is_not_cut_short(mutex: Any) -> None:
    with held_by_child(mutex):
        started = time.monotonic()
        with pytest.raises(LockTimeout):
            acquire(mutex, 0.15)
        assert 0.15 <= time.monotonic() - started < 5


def test_stopped_holder_is_named(mutex: Any) -> None:
    with held_by_child(mutex) as child:
        child.stop()
        with pytest.raises(LockTimeout) as caught:
            acquire(mutex, 0.02)
        assert caught.value.owner_pid == child.pid
        assert caught.value.held_for is not None
        assert str(child.pid) in str(caught.value)
        # None of these waits for anybody.
        assert mutex.owner.pid == child.pid
        assert mutex.statistics().timeouts == 1
        assert str(child.pid) in repr(mutex)
        child.proceed()
        child.say("release")
        assert child.hear() == "released"


def test_a_hog_does_not_starve_others(mutex: Any) -> None:
    with Child(_hog, mutex) as child:
        child.hear()
        waits = []
        for _ in range(20):
            started = time.monotonic()
            acquire(mutex, 10).release()
            waits.append(time.monotonic() - started)
        assert sorted(waits)[10] < 0.3, waits
        assert max(waits) < 2, waits


def _hog(line: Line, mutex: Any) -> None:
    for _ in range(1000):
        acquire(mutex).release()
    line.say("at it")
    while line.silent(0):
        for _ in range(100):
            acquire(mutex).release()


def test_a_hog_in_another_thread(mutex: Any) -> None:
    with Worker(_hog, mutex) as worker:
        worker.hear()
        started = time.monotonic()
        for _ in range(20):
            acquire(mutex, 10).release()
        worker.say("enough")
        assert time.monotonic() - started < 5


def test_a_killed_waiter_leaves_no_trace(mutex: Any) -> None:
    hold = acquire(mutex)
    with Child(_wait_and_say, mutex) as child:
        wait_for_waiter(mutex)
        child.kill()
    hold.release()
    # The free lock is promised to the dead waiter for a few milliseconds yet.
    wait_until(lambda: is_to_be_had(mutex), seconds=1)
    started = time.monotonic()
    for _ in range(100):
        take(mutex)
    assert time.monotonic() - started < 1


def test_a_stopped_waiter_stops_nobody(mutex: Any) -> None:
    hold = acquire(mutex)
    with Child(_wait_and_say, mutex) as child:
        wait_for_waiter(mutex)
        child.stop()
        hold.release()
        started = time.monotonic()
        for _ in range(100):
            take(mutex, 5)
        assert time.monotonic() - started < 2
        child.proceed()
        assert child.hear() == (False, None)


def test_ctrl_c_while_waiting(mutex: Any) -> None:
    hold = acquire(mutex)
    with Child(_be_interrupted, mutex) as child:
        wait_for_waiter(mutex)
        started = time.monotonic()
        child.signal(signal.SIGINT)
        assert child.hear() == "KeyboardInterrupt"
        assert time.monotonic() - started < 1
        hold.release()
        assert child.hear() == (False, None)


def _be_interrupted(line: Line, mutex: Any) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        acquire(mutex)
    except KeyboardInterrupt:
        line.say("KeyboardInterrupt")
    line.say(take(mutex))


def test_signal_handler_that_returns_does_not_end_the_wait(mutex: Any) -> None:
    hold = acquire(mutex)
    with Child(_handle_and_wait, mutex) as child:
        wait_for_waiter(mutex)
        child.signal(signal.SIGUSR1)
        assert child.hear() == "handled"
        hold.release()
        assert child.hear() == (False, None)


def _handle_and_wait(line: Line, mutex: Any) -> None:
    signal.signal(signal.SIGUSR1, lambda *_: line.say("handled"))
    line.say(take(mutex))
