"""Who asks to be told of a release or a commit is told, in every order of events; who did not ask costs nothing."""

from __future__ import annotations

import math
import struct
import threading
from typing import Any

import pytest
from kinds import KINDS, acquire, make
from processes import Child, Line, held_by_child, read_shm, slot_offset, state_of, wait_until

from wdkmutex_shm import FastMutex, KMutex, MutexDestroyed
from wdkmutex_shm.core import _core
from wdkmutex_shm.core._core import ON_COMMIT, ON_RELEASE

LONG = 300.0  # seconds: who is not told fails the test long before that
WATCH_AT = 316


def _tickets(mutex: Any) -> tuple[int, int]:
    """The futex word and what is asked for, as they stand in shared memory."""
    watch, watched = struct.unpack("=II", read_shm(mutex.segment, slot_offset(mutex, WATCH_AT), 8))
    return watch, watched


def _sleeper(line: Line, mutex: Any, of: int, seconds: float = LONG) -> None:
    known = _core.commits(mutex)
    ticket = _core.watch(mutex, of, known)
    line.say("watching")
    line.hear()
    _core.sleep_until_told(mutex, ticket, seconds)
    line.say(_core.commits(mutex) != known)


def _watching(mutex: Any, of: int, asleep: bool = True, seconds: float = LONG) -> Child:
    child = Child(_sleeper, mutex, of, seconds)
    child.hear()
    if asleep:
        child.say("sleep")
        wait_until(lambda: state_of(child.pid) == "S", "it sleeps")
    return child


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("asleep", [True, False])
def test_a_release_is_told(kind: str, asleep: bool) -> None:
    mutex = make(kind)
    with held_by_child(mutex) as holder, _watching(mutex, ON_RELEASE, asleep) as watcher:
        assert not _core.is_free(mutex)
        holder.say("release")
        assert holder.hear() == "released"
        if not asleep:  # it is told between its look and its sleep
            watcher.say("sleep")
        assert watcher.hear() is False
        assert _core.is_free(mutex)


@pytest.mark.parametrize("kind", [FastMutex, KMutex])
@pytest.mark.parametrize("asleep", [True, False])
@pytest.mark.parametrize("how", ["leave", "commit", "fetch_add", "replace", "dropped"])
def test_a_commit_is_told(kind: Any, how: str, asleep: bool) -> None:
    mutex = kind(1)
    with _watching(mutex, ON_COMMIT, asleep) as watcher:
        guard = None
        if how == "fetch_add":
            mutex.fetch_add(1)
        elif how == "replace":
            mutex.replace(2)
        else:
            guard = mutex.lock()
            guard.value = 2
            if how == "commit":
                guard.commit()
            elif how == "leave":
                guard.__exit__(None, None, None)
            else:
                guard = None
        if not asleep:
            watcher.say("sleep")
        assert watcher.hear() is True
        del guard


def test_a_release_without_a_commit_is_not_told_to_who_waits_for_one() -> None:
    mutex = FastMutex(1)
    with _watching(mutex, ON_COMMIT) as watcher:
        before = _tickets(mutex)
        for _ in range(10):
            with mutex.lock() as guard:
                assert guard.value == 1
        assert _tickets(mutex) == before
        mutex.fetch_add(1)
        assert watcher.hear() is True


def test_a_commit_that_nobody_waits_for_tells_nobody() -> None:
    mutex = FastMutex(1)
    for _ in range(10):
        mutex.fetch_add(1)
    assert _tickets(mutex) == (0, 0)


def test_watchers_that_know_different_commits_are_all_told() -> None:
    mutex = FastMutex(1)
    known = _core.commits(mutex)
    with _watching(mutex, ON_COMMIT) as watcher:
        # A commit that its maker was killed before telling of: only the commit word says so.
        ticket = _core.watch(mutex, ON_COMMIT, known + 2)
        assert watcher.hear() is False  # woken, to look for itself
        assert _tickets(mutex) == (ticket, (known + 2) << 2 & 0xFFFFFFFF | ON_COMMIT)


def test_one_is_told_of_a_release_and_another_of_a_commit() -> None:
    mutex = FastMutex(1)
    with held_by_child(mutex) as holder, _watching(mutex, ON_RELEASE) as one, _watching(mutex, ON_COMMIT) as other:
        holder.say("release")
        assert one.hear() is False
        assert other.hear() is False  # told as well, because both sleep on one word


def test_what_a_killed_watcher_asked_for_costs_one_wake() -> None:
    mutex = FastMutex(1)
    with _watching(mutex, ON_RELEASE) as watcher:
        watcher.kill()
    before, wanted = _tickets(mutex)
    assert wanted == ON_RELEASE
    for _ in range(5):
        mutex.fetch_add(1)
    assert _tickets(mutex) == (before + 1, 0)


@pytest.mark.parametrize("of", [ON_COMMIT, ON_RELEASE])
def test_the_end_of_the_mutex_is_told(of: int) -> None:
    mutex = FastMutex(1)
    with Child(_destroyed, mutex, of) as watcher:
        watcher.hear()
        wait_until(lambda: state_of(watcher.pid) == "S", "it sleeps")
        assert mutex.to_owned() == 1
        assert watcher.hear() == "destroyed"
    for call in (lambda: _core.commits(mutex), lambda: _core.is_free(mutex), lambda: _core.watch(mutex, of)):
        with pytest.raises(MutexDestroyed):
            call()


def _destroyed(line: Line, mutex: Any, of: int) -> None:
    ticket = _core.watch(mutex, of, _core.commits(mutex))
    line.say("watching")
    _core.sleep_until_told(mutex, ticket, LONG)
    with pytest.raises(MutexDestroyed):
        _core.commits(mutex)
    line.say("destroyed")


def _sleeper_of_many(line: Line, mutexes: list[Any]) -> None:
    tickets = [_core.watch(mutex, ON_RELEASE) for mutex in mutexes]
    line.say("watching")
    while not any(_core.is_free(mutex) for mutex in mutexes):
        _core.sleep_until_any_told(mutexes, tickets, LONG)
        tickets = [_core.watch(mutex, ON_RELEASE) for mutex in mutexes]
    line.say([_core.is_free(mutex) for mutex in mutexes])


def test_one_of_many_is_told() -> None:
    mutexes = [make(KINDS[number % 3]) for number in range(_core.MOST_OBJECTS)]
    holds = [acquire(mutex) for mutex in mutexes]
    with Child(_sleeper_of_many, mutexes) as watcher:
        watcher.hear()
        wait_until(lambda: state_of(watcher.pid) == "S", "it sleeps")
        # In this order: FastMutexes may only be given back below DISPATCH, and all of them are this thread's.
        holds[41].release()
        assert watcher.hear() == [number == 41 for number in range(len(mutexes))]
    for number, hold in enumerate(holds):
        if number != 41:
            hold.release()


@pytest.mark.parametrize("count", [0, _core.MOST_OBJECTS + 1])
def test_too_many_or_none(count: int) -> None:
    mutex = FastMutex(1)
    with pytest.raises(ValueError, match="from 1 to 64"):
        _core.sleep_until_any_told([mutex] * count, [0] * count, 1.0)


def test_a_sleep_without_limit() -> None:
    mutex = FastMutex(1)
    with _watching(mutex, ON_COMMIT, seconds=math.inf) as watcher:
        assert watcher.silent(0.05)
        mutex.fetch_add(1)
        assert watcher.hear() is True


def test_a_sleep_ends_by_itself_and_lets_other_threads_run() -> None:
    mutex = FastMutex(1)
    ticket = _core.watch(mutex, ON_COMMIT, _core.commits(mutex))
    thread = threading.Timer(0.05, lambda: mutex.fetch_add(1))
    thread.start()
    while mutex.peek() == 1:
        _core.sleep_until_told(mutex, ticket, LONG)
    thread.join()
    _core.sleep_until_told(mutex, _core.watch(mutex, ON_COMMIT, _core.commits(mutex)), 0.01)
    _core.sleep_until_told(mutex, 0, -1.0)


def _storm(line: Line, mutex: Any, last: int) -> None:
    """Wait for one commit after the other; with a wake that is missed this takes until the deadline."""
    seen = mutex.peek()
    while seen < last:
        known = _core.commits(mutex)
        ticket = _core.watch(mutex, ON_COMMIT, known)
        value = mutex.peek()
        if value == seen:
            _core.sleep_until_told(mutex, ticket, LONG)
        seen = value
    line.say(seen)


def test_no_wake_is_missed() -> None:
    mutex, rounds = FastMutex(0), 20_000
    watchers = [Child(_storm, mutex, rounds) for _ in range(3)]
    for _ in range(rounds):
        mutex.fetch_add(1)
    for watcher in watchers:
        with watcher:
            assert watcher.hear() == rounds
