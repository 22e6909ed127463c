"""Who waits is told while it waits, and no longer."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from typing import Any

import pytest
from kinds import KINDS, acquire, destroy, make
from processes import Child, Line, Worker, held_by_child, in_child, wait_for_waiter
from support import wait_until
from wait_board import wait_for_lock, waiting

from wdkmutex_shm import (
    FastMutex,
    KMutex,
    LockTimeout,
    MutexDestroyed,
)
from wdkmutex_shm.observe import (
    waiters as waits,
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_that_waits_is_told(kind: str, method: str) -> None:
    mutex = make(kind)
    assert mutex.waiters() == ()
    hold = acquire(mutex)
    with Child(wait_for_lock, mutex, method=method) as child:
        child.hear()
        (waiter,) = waiting(mutex)
        assert (waiter.pid, waiter.tid, waiter.how) == (child.pid, child.pid, "lock")
        assert waiter.command not in ("", "?")
        assert waiter.thread not in ("", "?")
        assert 0.001 <= waiter.waited < 30
        assert in_child(_waiters_seen_elsewhere, mutex, method="spawn") == [child.pid]
        hold.release()
        assert child.hear() == "had"
        assert mutex.waiters() == ()
        child.say("release")
        child.end()


def _waiters_seen_elsewhere(mutex: Any) -> list[int]:
    return [waiter.pid for waiter in mutex.waiters()]


@pytest.mark.parametrize("kind", KINDS)
def test_threads_and_processes_are_told_in_the_order_in_which_they_came(kind: str) -> None:
    mutex, other = make(kind), make(kind)
    hold = acquire(mutex)
    with Worker(wait_for_lock, mutex) as first:
        first.hear()
        waiting(mutex, 1)
        with Child(wait_for_lock, mutex, 60.0) as second:
            second.hear()
            found = waiting(mutex, 2)
            assert [waiter.pid for waiter in found] == [os.getpid(), second.pid]
            assert found[0].tid != os.getpid()
            assert found[0].waited > found[1].waited
            assert other.waiters() == ()
            hold.release()
            served = wait_until(lambda: not first.silent(0) and first or not second.silent(0) and second)
            assert served.hear() == "had"
            assert len(waiting(mutex)) == 1
            served.say("release")
            last = second if served is first else first
            assert last.hear() == "had"
            assert mutex.waiters() == ()
            last.say("release")
            second.end()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["timeout", "interrupted", "destroyed", "killed"])
def test_a_wait_that_ends_without_the_lock_is_told_no_more(kind: str, how: str) -> None:
    mutex = make(kind)
    with held_by_child(mutex) as holder, Child(wait_for_lock, mutex, 0.2 if how == "timeout" else None) as child:
        child.hear()
        waiting(mutex)
        if how == "interrupted":
            child.signal(signal.SIGINT)
            assert child.hear() == "KeyboardInterrupt"
        elif how == "timeout":
            assert child.hear() == "LockTimeout"
        elif how == "killed":
            child.kill()
        else:
            place = mutex.nonce, mutex.slot_index, mutex.generation
            destroy(mutex)
            assert child.hear() == "MutexDestroyed"
            assert waits.waiters_of(*place) == ()
            with pytest.raises(MutexDestroyed):
                mutex.waiters()
            return
        assert mutex.waiters() == ()
        holder.say("release")


def test_a_stopped_waiter_is_told() -> None:
    mutex = FastMutex(0)
    with held_by_child(mutex) as holder, Child(wait_for_lock, mutex) as child:
        child.hear()
        waiting(mutex)
        child.stop()
        assert [waiter.pid for waiter in mutex.waiters()] == [child.pid]
        child.proceed()
        holder.say("release")
        assert child.hear() == "had"


def test_the_timeout_tells_who_held_it_and_how_many_waited() -> None:
    mutex = KMutex(0)
    with held_by_child(mutex) as holder, Worker(wait_for_lock, mutex) as first, Child(wait_for_lock, mutex) as second:
        first.hear()
        second.hear()
        waiting(mutex, 2)
        with pytest.raises(LockTimeout) as caught:
            mutex.lock(0.01)
        error = caught.value
        assert (error.owner_pid, error.owner_tid, error.waiters) == (holder.pid, holder.pid, 2)
        assert error.held_for is not None
        assert f"process {holder.pid}" in str(error)
        assert "2 others are waiting for it" in str(error)
        again = pickle.loads(pickle.dumps(error))
        assert (again.waiters, str(again)) == (2, str(error))
        holder.say("release")
        wait_until(lambda: not first.silent(0) or not second.silent(0))
        for line in (first, second):
            line.say("release")


def _forks_in_a_wait(line: Line, mutex: Any) -> None:
    children: list[int] = []

    def handler(number: int, frame: object) -> None:
        child = os.fork()
        if child:
            children.append(child)

    signal.signal(signal.SIGUSR1, handler)
    parent = os.getpid()
    wait_for_lock(line, mutex)
    if os.getpid() != parent:
        os._exit(0)
    os.waitpid(children[0], 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_child_forked_in_a_wait_has_a_record_of_its_own(kind: str) -> None:
    mutex = make(kind)
    hold = acquire(mutex)
    with Child(_forks_in_a_wait, mutex) as child:
        child.hear()
        waiting(mutex)
        child.signal(signal.SIGUSR1)
        found = waiting(mutex, 2)
        assert len({waiter.pid for waiter in found}) == 2
        assert child.pid in {waiter.pid for waiter in found}
        hold.release()
        for _ in range(2):
            assert child.hear() == "had"
            child.say("release")
        assert child.end() == 0
    assert mutex.waiters() == ()


@pytest.mark.parametrize("kind", KINDS)
def test_a_crowd(kind: str) -> None:
    """Many waiters at once, in threads and processes; all are told, and none when all have had it."""
    mutex = make(kind)
    hold = acquire(mutex)
    with Child(_crowd, mutex, 40) as one, Child(_crowd, mutex, 40) as other:
        found = waiting(mutex, 80)
        assert len({(waiter.pid, waiter.tid) for waiter in found}) == 80
        wait_for_waiter(mutex, 80)
        hold.release()
        for child in (one, other):
            assert child.hear() == 40
            assert child.end() == 0
    assert mutex.waiters() == ()


def _crowd(line: Line, mutex: Any, count: int) -> None:
    had = []

    def work() -> None:
        with acquire(mutex):
            had.append(1)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    line.say(len(had))


def test_who_only_polls_is_told_of_those_who_wait() -> None:
    mutex = FastMutex(0)
    with held_by_child(mutex) as holder:
        with pytest.raises(LockTimeout) as caught:
            mutex.lock(timeout=0)
        assert caught.value.waiters == 0
        with Child(wait_for_lock, mutex) as child:
            child.hear()
            waiting(mutex)
            with pytest.raises(LockTimeout) as caught:
                mutex.lock(timeout=0)
            assert caught.value.waiters == 1
            holder.say("release")
            assert child.hear() == "had"
