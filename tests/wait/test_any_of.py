"""lock_any: the first that is free, and none is neglected."""

from __future__ import annotations

from typing import Any

import pytest
from kinds import acquire
from multi import SOON, free, mixed, waits_for
from processes import (
    Child,
    Line,
    held_by_child,
    state_of,
    wait_for_waiter,
    wait_until,
    waiters,
)

from wdkmutex_shm import (
    CriticalSection,
    Guard,
    LockTimeout,
    lock_all,
    lock_any,
)


def test_any_that_is_free(cls: Any) -> None:
    mutexes = [cls(0), CriticalSection(), cls(1)]
    with held_by_child(mutexes[0]), held_by_child(mutexes[1]):
        for _ in range(4):
            index, guard = lock_any(*mutexes, timeout=0)
            assert index == 2
            with guard:
                guard.value += 1
    assert mutexes[2].peek() == 5


def test_none_is_neglected(cls: Any) -> None:
    mutexes = [cls(0) for _ in range(3)]
    seen = []
    for _ in range(30):
        index, guard = lock_any(*mutexes)
        seen.append(index)
        guard.drop_safe()
    assert [seen.count(index) for index in range(3)] == [10, 10, 10]


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_release_of_any_is_told(which: int, method: str) -> None:
    mutexes = list(mixed())
    holders = [Child(_hold, mutex) for mutex in mutexes]
    for holder in holders:
        holder.hear()
    with Child(waits_for, lock_any, mutexes, method=method) as child:
        child.hear()
        wait_for_waiter(mutexes[which])
        wait_until(lambda: state_of(child.pid) == "S", "it sleeps")
        holders[which].say("release")
        assert child.hear() == which
        child.say("release")
        assert child.hear() == "released"
        assert [waiters(mutex) for mutex in mutexes] == [0, 0, 0]
    for holder in holders:
        with holder:
            if holder is not holders[which]:
                holder.say("release")


def _hold(line: Line, mutex: Any) -> None:
    hold = acquire(mutex)
    line.say()
    line.hear()
    hold.release()


@pytest.mark.parametrize("timeout", [0, SOON])
def test_none_was_free(cls: Any, timeout: float) -> None:
    one, other = cls(1), CriticalSection()
    with held_by_child(one), held_by_child(other):
        with pytest.raises(LockTimeout, match="none of 2") as caught:
            lock_any(one, other, timeout=timeout)
        assert caught.value.timeout == timeout
        assert (waiters(one), waiters(other)) == (0, 0)


def _hog(line: Line, mutex: Any) -> None:
    line.say()
    while not line._connection.poll(0):
        with mutex.lock() as guard:
            guard.value += 1


def test_beside_hogs(cls: Any) -> None:
    """Locks that are taken again as soon as they are released are had all the same."""
    one, other = cls(0), cls(0)
    with Child(_hog, one) as first, Child(_hog, other) as second:
        first.hear()
        second.hear()
        for _ in range(200):
            _, guard = lock_any(one, other, timeout=30)
            guard.drop_safe()
        with lock_all(one, other, timeout=30):
            pass


def test_what_a_killed_waiter_leaves(cls: Any) -> None:
    one, other = cls(0), cls(0)
    with held_by_child(one) as holder, held_by_child(other) as second:
        with Child(waits_for, lock_any, [one, other]) as child:
            child.hear()
            wait_for_waiter(one)
            wait_for_waiter(other)
            child.kill()
        for each in (holder, second):
            each.say("release")
            each.hear()
        assert (waiters(one), waiters(other)) == (1, 1)
        with lock_all(one, other, timeout=30):
            pass
    assert (waiters(one), waiters(other)) == (0, 0)


def _take_any(line: Line, mutexes: list[Any], rounds: int) -> None:
    for _ in range(rounds):
        _, guard = lock_any(*mutexes)
        with guard:
            if isinstance(guard, Guard):
                guard.value += 1
    line.say("done")


def test_many_processes_on_a_few(cls: Any) -> None:
    mutexes, rounds = [cls(0), cls(0)], 1000
    children = [Child(_take_any, mutexes, rounds) for _ in range(4)]
    for child in children:
        with child:
            assert child.hear() == "done"
    assert sum(mutex.peek() for mutex in mutexes) == rounds * len(children)
    assert free(*mutexes)
