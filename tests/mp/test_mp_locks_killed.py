"""The locks of a crash-proof context are released when their holder is killed, and a killed waiter is not missed."""

from __future__ import annotations

import os
from typing import Any

import pytest
from mp_peers import Peer, asleep, hold, wait_for
from processes import Line, wait_until
from support import DEADLINE

from wdkmutex_shm.mp import locks
from wdkmutex_shm.mp.process_key import me

# Children are forked while other threads run, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

KINDS = ("Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition")


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_killed_process_held_is_released(context: Any, kind: str) -> None:
    lock = getattr(context, kind)()
    with Peer(context, hold, lock) as child:
        assert child.hear() == "held"
        assert not lock.acquire(False)
        assert not lock.acquire(timeout=0.05)
        child.kill()
    assert lock.acquire(timeout=DEADLINE)
    lock.release()
    assert lock.acquire(False)
    lock.release()


@pytest.mark.parametrize("timeout", [None, 0])
@pytest.mark.parametrize("kind", KINDS)
def test_who_only_tries_gets_it_from_the_dead(fork: Any, kind: str, timeout: int | None) -> None:
    lock = getattr(fork, kind)()
    with Peer(fork, hold, lock) as child:
        child.hear()
        assert not (lock.acquire(False) if timeout is None else lock.acquire(timeout=timeout))
        child.kill()
    assert lock.acquire(False) if timeout is None else lock.acquire(timeout=timeout)
    assert getattr(lock, "abandoned", True)


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_polling_sees_that_the_dead_hold_nothing(fork: Any, kind: str) -> None:
    lock = getattr(fork, kind)()
    with Peer(fork, hold, lock) as child:
        child.hear()
        assert lock.locked()
        child.kill()
    assert not lock.locked()
    assert "None" in repr(lock)
    assert lock.acquire(False)
    assert lock.abandoned
    assert lock.locked()


@pytest.mark.parametrize("kind", KINDS)
def test_a_waiter_gets_it_from_the_dead(fork: Any, kind: str) -> None:
    lock = getattr(fork, kind)()
    with Peer(fork, hold, lock) as holder:
        holder.hear()
        with Peer(fork, wait_for, lock) as waiter:
            waiter.hear()
            holder.kill()
            assert waiter.hear() is True


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_the_next_owner_is_told(fork: Any, kind: str) -> None:
    lock = getattr(fork, kind)()
    with lock:
        assert not lock.abandoned
    with Peer(fork, hold, lock) as child:
        child.hear()
        child.kill()
    with lock:
        assert lock.abandoned
    with lock:
        assert not lock.abandoned


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_waiter_is_not_missed(fork: Any, kind: str) -> None:
    lock = getattr(fork, kind)()
    lock.acquire()
    with Peer(fork, wait_for, lock) as first:
        first.hear()
        wait_until(lambda: asleep(first.pid), "the first waits")
        with Peer(fork, wait_for, lock) as second:
            second.hear()
            first.kill()
            lock.release()
            assert second.hear() is True


@pytest.mark.parametrize("kind", ["Lock", "Semaphore"])
def test_a_stopped_waiter_holds_up_nobody(fork: Any, kind: str) -> None:
    lock = getattr(fork, kind)()
    lock.acquire()
    with Peer(fork, wait_for, lock) as first:
        first.hear()
        wait_until(lambda: lock._line.section.locked(), "the first stands in line")
        first.stop()
        with Peer(fork, wait_for, lock) as second:
            second.hear()
            lock.release()
            assert second.hear() is True
            assert first.silent(0)


def test_who_gets_it_is_told_although_another_saw_the_death(fork: Any) -> None:
    lock = fork.Lock()
    with Peer(fork, hold, lock) as holder:
        holder.hear()
        with Peer(fork, _wait_and_tell, lock) as first:
            wait_until(lambda: lock._word.peek() >> 62, "it is promised to the first in line")
            first.stop()
            holder.kill()
            locks._Attempt(lock._word, me()).mend()  # as whoever stands behind it in the line does
            first.proceed()
            assert first.hear() is True
    with lock:
        assert lock.abandoned  # this one was killed, too
    with lock:
        assert not lock.abandoned


def _wait_and_tell(line: Line, lock: Any) -> None:
    lock.acquire()
    line.say(lock.abandoned)
    line.hear(3600)


def test_a_lock_of_the_dead_that_nobody_has_yet_is_free(fork: Any) -> None:
    lock = fork.Lock()
    with Peer(fork, hold, lock) as child:
        child.hear()
        child.kill()
    locks._Attempt(lock._word, me()).mend()
    assert not lock.locked()
    assert repr(lock) == "<Lock(owner=None)>"
    with pytest.raises(ValueError, match="released too many times"):
        lock.release()
    attempt = locks._Attempt(lock._word, me())
    assert attempt.take(False)
    attempt.give_back()  # as when Ctrl-C ends the call that got it: the next one is told
    assert lock.acquire(False)
    assert lock.abandoned
    lock.release()
    assert lock.acquire(False)
    assert not lock.abandoned


def test_a_stopped_waiter_does_not_hold_up_who_only_tries(fork: Any, monkeypatch: Any) -> None:
    lock = fork.Lock()
    lock.acquire()
    with Peer(fork, wait_for, lock) as first:
        first.hear()
        wait_until(lambda: lock._word.peek() >> 62, "it is promised to the first in line")
        first.stop()
        now = locks._now()
        monkeypatch.setattr(locks, "_now", lambda: now)
        lock.release()
        assert not lock.acquire(False)
        monkeypatch.setattr(locks, "_now", lambda: now + 3_999)
        assert not lock.acquire(False)
        monkeypatch.setattr(locks, "_now", lambda: now + 4_000)
        assert lock.acquire(False)
        assert not lock.abandoned
        monkeypatch.undo()
        lock.release()
        assert lock.acquire(timeout=DEADLINE)
        first.proceed()
        lock.release()
        assert first.hear() is True


def _count_for_ever(line: Line, lock: Any, inside: Any) -> None:
    line.say("begun")
    while True:
        with lock:
            inside[0] = me = os.getpid()
            inside[1] += 1
            if inside[0] != me:
                inside[2] += 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_goes_on_through_a_storm_of_kills(fork: Any, kind: str) -> None:
    lock = getattr(fork, kind)()
    inside = fork.RawArray("q", 3)
    for _ in range(6):
        with Peer(fork, _count_for_ever, lock, inside) as one, Peer(fork, _count_for_ever, lock, inside) as other:
            one.hear()
            other.hear()
            before = inside[1]
            wait_until(lambda before=before: inside[1] > before + 20, "they count")
            one.kill()
            before = inside[1]
            wait_until(lambda before=before: inside[1] > before + 20, "the other counts on")
            other.kill()
    assert lock.acquire(timeout=DEADLINE)
    assert inside[2] == 0


@pytest.mark.parametrize("typecode", ["i", "d"])
def test_the_lock_of_a_value_is_released(context: Any, typecode: str) -> None:
    value = context.Value(typecode, 3)
    array = context.Array(typecode, [1, 2])
    with Peer(context, hold, value.get_lock()) as one, Peer(context, hold, array.get_lock()) as other:
        one.hear()
        other.hear()
        one.kill()
        other.kill()
    with value:
        value.value += 1
    with array:
        array[0] += 1
    assert (value.value, array[:]) == (4, [2, 2])
