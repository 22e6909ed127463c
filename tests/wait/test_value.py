"""Waiting for a value: lock_when, wait_for, changes, and a guard's wait_for, with real processes."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from processes import Child, Line, held_by_child
from waits import SOON, asleep, is_free, wait_in, waiter

from wdkmutex_shm import (
    FastMutex,
    LockTimeout,
)


@pytest.fixture(params=["lock_when", "wait_for", "changes", "guard"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# --- a value that is there, or comes ---


def test_a_value_that_is_there_is_not_waited_for(cls: Any, form: str) -> None:
    assert wait_in(form, cls(7), lambda value: value == 7, 0 if form != "guard" else None) == 7


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_commit_of_another_process_ends_the_wait(cls: Any, form: str, method: str) -> None:
    mutex = cls(0)
    with Child(waiter, mutex, form, 2, method=method) as child:
        asleep(child)
        mutex.fetch_add(1)
        assert child.silent(SOON)
        mutex.fetch_add(1)
        assert child.hear() == 2


def test_every_waiter_is_served(cls: Any, form: str) -> None:
    mutex = cls(0)
    children = [Child(waiter, mutex, form, 1) for _ in range(4)]
    for child in children:
        asleep(child)
    mutex.replace(1)
    for child in children:
        with child:
            assert child.hear() == 1


def test_waiters_wait_without_the_lock(cls: Any, form: str) -> None:
    mutex = cls(0)
    with Child(waiter, mutex, form, 1) as child:
        asleep(child)
        with mutex.lock(timeout=5) as guard:
            assert mutex.owner.pid == os.getpid()
            guard.value = 1
        assert child.hear() == 1


def test_a_commit_in_the_midst_of_a_hold_ends_a_wait_without_the_lock(cls: Any) -> None:
    mutex = cls(0)
    with Child(waiter, mutex, "wait_for", 1) as child:
        asleep(child)
        with mutex.lock() as guard:
            guard.value = 1
            guard.commit()
            assert child.hear() == 1


def _consumer(line: Line, mutex: Any, rounds: int) -> None:
    for _ in range(rounds):
        with mutex.lock_when(lambda value: value > 0) as guard:
            assert guard.value > 0
            guard.value -= 1
    line.say("done")


def test_what_many_wait_for_is_had_once_each(cls: Any) -> None:
    mutex, rounds = cls(0), 300
    children = [Child(_consumer, mutex, rounds) for _ in range(3)]
    for _ in range(rounds * len(children)):
        mutex.fetch_add(1)
    for child in children:
        with child:
            assert child.hear() == "done"
    assert mutex.peek() == 0


def _pingpong(line: Line, mutex: Any, mine: int, rounds: int) -> None:
    for _ in range(rounds):
        with mutex.lock_when(lambda value: value % 2 == mine) as guard:
            guard.value += 1
    line.say("done")


def test_two_take_turns(cls: Any) -> None:
    mutex, rounds = cls(0), 500
    with Child(_pingpong, mutex, 0, rounds) as even, Child(_pingpong, mutex, 1, rounds) as odd:
        assert (even.hear(), odd.hear()) == ("done", "done")
    assert mutex.peek() == 2 * rounds


def _turns_in_guard(line: Line, mutex: Any, mine: int, rounds: int) -> None:
    with mutex.lock() as guard:
        for _ in range(rounds):
            guard.wait_for(lambda value: value % 2 == mine)
            guard.value += 1
    line.say("done")


def test_two_take_turns_within_their_guards(cls: Any) -> None:
    mutex, rounds = cls(0), 500
    with Child(_turns_in_guard, mutex, 0, rounds) as even, Child(_turns_in_guard, mutex, 1, rounds) as odd:
        assert (even.hear(), odd.hear()) == ("done", "done")
    assert mutex.peek() == 2 * rounds


# --- the predicate ---


def test_a_predicate_that_raises_leaves_nothing_locked(cls: Any, form: str) -> None:
    mutex = cls(1)
    with pytest.raises(ZeroDivisionError):
        wait_in(form, mutex, lambda value: 1 // 0)
    assert is_free(mutex)
    assert mutex.peek() == 1


def test_a_predicate_that_raises_with_the_lock_leaves_nothing_locked(cls: Any) -> None:
    mutex = cls(1)
    asked = iter([True])
    with pytest.raises(StopIteration):
        mutex.lock_when(lambda value: next(asked))
    assert is_free(mutex)


def test_a_predicate_that_changes_a_container_commits_nothing(cls: Any, form: str) -> None:
    mutex = cls([1])

    def greedy(value: list[int]) -> bool:
        value.append(2)
        return True

    wait_in(form, mutex, greedy)
    assert mutex.peek() == [1]
    assert mutex.statistics().commits == 0


def test_the_predicate_is_asked_again_with_the_lock(cls: Any) -> None:
    """T changes between the look without the lock and the lock."""
    mutex = cls(1)
    asked = []

    def once(value: int) -> bool:
        asked.append((value, mutex._is_mine()))
        if len(asked) == 1:
            mutex.replace(0)
            assert value == 1
        elif len(asked) == 3:
            mutex.replace(1)
        return value == 1

    with mutex.lock_when(once, timeout=30) as guard:
        assert guard.value == 1
    assert asked == [(1, False), (0, True), (0, False), (1, False), (1, True)]


def test_a_predicate_that_looks_at_the_time_is_asked_every_second() -> None:
    mutex = FastMutex(0)
    until = time.monotonic() + 0.2
    assert mutex.wait_for(lambda value: time.monotonic() > until, timeout=30) == 0


def test_a_predicate_may_use_other_mutexes(cls: Any) -> None:
    mutex, other = cls(0), cls(1)
    with mutex.lock_when(lambda value: other.fetch_add(0) == 1) as guard:
        guard.value = 1
    assert mutex.peek() == 1


# --- timeouts ---


@pytest.mark.parametrize("timeout", [0, SOON])
def test_no_value_in_time(cls: Any, form: str, timeout: float) -> None:
    mutex = cls(1)
    with pytest.raises(LockTimeout) as caught:
        wait_in(form, mutex, lambda value: value == 2, timeout)
    if form != "changes":
        assert caught.value.timeout == timeout
        assert "predicate" in str(caught.value)
    assert is_free(mutex)


def test_the_value_is_there_but_not_the_lock(cls: Any) -> None:
    mutex = cls(1)
    with held_by_child(mutex) as holder:
        with pytest.raises(LockTimeout) as caught:
            mutex.lock_when(lambda value: value == 1, timeout=SOON)
        assert caught.value.timeout == SOON
        assert caught.value.owner_pid == holder.pid
        assert mutex.wait_for(lambda value: value == 1, timeout=0) == 1


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_timeout_that_is_none(cls: Any, form: str, timeout: float) -> None:
    mutex = cls(1)
    with pytest.raises(ValueError, match="timeout"):
        wait_in(form, mutex, bool, timeout)
    assert is_free(mutex)


def test_a_timeout_longer_than_time(cls: Any) -> None:
    mutex = cls(1)
    with mutex.lock_when(bool, timeout=float("inf")) as guard:
        guard.wait_for(bool, timeout=1e300)
        assert mutex.wait_for(bool, timeout=float("inf")) == 1


def test_changes_end_with_the_timeout(cls: Any) -> None:
    mutex = cls(1)
    assert list(mutex.changes(timeout=0)) == [1]
    assert list(mutex.changes(SOON)) == [1]


def test_a_guard_holds_again_after_its_timeout(cls: Any) -> None:
    mutex = cls(1)
    with mutex.lock() as guard:
        guard.value = 2
        with pytest.raises(LockTimeout):
            guard.wait_for(lambda value: value == 3, timeout=SOON)
        assert not guard.released
        assert mutex.peek() == 2
        assert not is_free(mutex)
        guard.value = 4
    assert mutex.peek() == 4


# --- the changes ---


def test_changes_begin_with_the_present_value(cls: Any) -> None:
    mutex = cls(1)
    changes = mutex.changes(timeout=0)
    seen = [next(changes)]
    mutex.replace(2)
    mutex.replace(3)
    seen.append(next(changes))
    with mutex.lock() as guard:
        assert guard.value == 3
    seen += changes
    mutex.replace(3)
    seen += changes
    assert seen == [1, 3, 3]
    assert "changes of" in repr(changes)


def _follower(line: Line, mutex: Any, last: int) -> None:
    seen = []
    for value in mutex.changes():
        seen.append(value)
        if value == last:
            break
    line.say(seen)


def test_the_last_value_is_never_missed(cls: Any) -> None:
    mutex, rounds = cls(0), 20_000
    children = [Child(_follower, mutex, rounds) for _ in range(2)]
    for _ in range(rounds):
        mutex.fetch_add(1)
    for child in children:
        with child:
            seen = child.hear()
            assert seen[-1] == rounds
            assert seen == sorted(seen)


def test_changes_of_a_container_are_new_objects(cls: Any) -> None:
    mutex = cls([1])
    changes = mutex.changes(timeout=0)
    next(changes).append(2)
    assert mutex.peek() == [1]
