"""A wait that closes a circle raises in the thread that closed it and names the circle; nothing else raises so."""

from __future__ import annotations

import os
import pickle
import random
import time
from typing import Any

import pytest
from deadlocks import called, circle, close, ended, take_two, the_rest_goes_on, threads_of, waited_for
from kinds import KINDS, acquire, make
from processes import Child, Line, Worker, wait_for_waiter
from support import wait_until

from wdkmutex_shm import (
    CriticalSection,
    DeadlockError,
    DeadlockLink,
    FastMutex,
    KMutex,
)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("method", ["thread", "fork", "spawn"])
def test_a_circle_is_named_in_the_one_that_closed_it(count: int, method: str) -> None:
    mutexes = [make(KINDS[at % 3]) for at in range(count)]
    with circle(mutexes, method) as children:
        error, seconds = close(children, mutexes)
        assert isinstance(error, DeadlockError)
        assert seconds < 5
        threads = threads_of(children)
        chain = error.chain
        assert all(type(link) is DeadlockLink for link in chain)
        # The one that closed it first, then whoever holds what it waits for, and so on.
        assert [(link.pid, link.tid) for link in chain] == [threads[-1], *threads[:-1]]
        assert [link.holds for link in chain] == [chain[at - 1].waits_for for at in range(count)]
        assert [link.waits_for for link in chain] == [called(mutex) for mutex in mutexes]
        assert all(link.command not in ("", "?") and link.waited >= 0.01 for link in chain)
        assert min(chain, key=lambda link: link.waited) == chain[0]
        assert (error.owner_pid, error.owner_tid) == threads[0]
        assert all(f"process {link.pid}" in str(error) and repr(link.holds) in str(error) for link in chain[1:])
        the_rest_goes_on(children)
    assert all(mutex.waiters() == () for mutex in mutexes)
    for mutex in mutexes:
        with acquire(mutex, 5):
            pass


def test_named_mutexes_are_called_by_their_names(grt: str) -> None:
    mutexes = [make(kind, f"lock of kind {kind}") for kind in KINDS]
    with circle(mutexes, "spawn") as children:
        error, _ = close(children, mutexes)
        assert [link.waits_for for link in error.chain] == [f"lock of kind {kind}" for kind in KINDS]
        assert error.name == "lock of kind fast"
        again = pickle.loads(pickle.dumps(error))
        assert (again.chain, again.facts, str(again)) == (error.chain, error.facts, str(error))
        the_rest_goes_on(children)


def test_threads_and_processes_in_one_circle() -> None:
    mutexes = [make(kind) for kind in KINDS]
    with ended(
        [
            Worker(take_two, mutexes[0], mutexes[1]),
            Child(take_two, mutexes[1], mutexes[2]),
            Worker(take_two, mutexes[2], mutexes[0]),
        ]
    ) as children:
        error, _ = close(children, mutexes)
        assert [link.pid for link in error.chain] == [os.getpid(), os.getpid(), children[1].pid]
        the_rest_goes_on(children)


def test_a_wait_with_a_timeout_is_told_as_well() -> None:
    mutexes: list[Any] = [FastMutex(0), KMutex(0)]
    with circle(mutexes, "fork", 60.0) as children:
        error, seconds = close(children, mutexes)
        assert isinstance(error, DeadlockError)
        assert seconds < 30
        the_rest_goes_on(children)


def test_every_operation_that_waits_is_told() -> None:
    for call in (
        lambda mutex: mutex.fetch_add(1),
        lambda mutex: mutex.replace(1),
        lambda mutex: mutex.lock(),
        lambda mutex: mutex.lock(30),
    ):
        mine, theirs = KMutex(0), FastMutex(0)
        with waited_for(mine, theirs):
            with pytest.raises(DeadlockError):
                call(theirs)
            assert theirs.try_lock() is None, "who does not wait cannot be in a circle"


@pytest.mark.parametrize("call", ["enter", "acquire", "with"])
def test_a_section_is_told(call: str) -> None:
    mine, theirs = CriticalSection(), CriticalSection()
    with waited_for(mine, theirs):
        with pytest.raises(DeadlockError):
            if call == "enter":
                theirs.enter()
            elif call == "acquire":
                theirs.acquire(True, 30)
            else:
                with theirs:
                    pass
        assert not theirs._is_owned()


def test_recursion_is_no_deadlock() -> None:
    mutex, section = KMutex(0), CriticalSection()
    with mutex.lock(), mutex.lock() as inner, section, section:
        inner.value += 1
        assert mutex.fetch_add(1) == 1
    assert mutex.peek() == 2


def test_a_chain_that_ends_is_no_deadlock() -> None:
    """Each waits for the next, and the last one works, for several looks long."""
    mutexes = [make(KINDS[at % 3]) for at in range(4)]
    with ended([Child(take_two, mutexes[at], mutexes[at + 1]) for at in range(3)]) as children:
        last = acquire(mutexes[3])
        for child in children:
            assert child.hear() == "has the first"
        for child in children:
            child.say("lock the second")
        for mutex in mutexes[1:]:
            wait_for_waiter(mutex)
        wait_until(lambda: min(waiter.waited for mutex in mutexes[1:] for waiter in mutex.waiters()) > 0.5)
        last.release()
        the_rest_goes_on([*children, None])


def test_who_waits_for_a_circle_without_being_in_it_is_not_told() -> None:
    mutexes = [KMutex(0), FastMutex(0)]
    outside, closer = Worker(take_two, FastMutex(0), mutexes[0], 60.0), Worker(take_two, mutexes[1], mutexes[0])
    with Child(take_two, mutexes[0], mutexes[1]) as first, outside, closer:
        for each in (first, outside, closer):
            each.hear()
        first.say("lock the second")
        wait_for_waiter(mutexes[1])
        outside.say("lock the second")
        wait_for_waiter(mutexes[0])
        closer.say("lock the second")
        error, _ = closer.hear()
        assert isinstance(error, DeadlockError)
        assert len(error.chain) == 2
        assert first.hear() == "had"
        first.say("release")
        assert outside.hear() == "had"
        outside.say("release")


def _contend(line: Line, mutexes: list[Any], seed: int, rounds: int) -> None:
    """Take two or three of them in their order, over and over; now and then for long enough that others look around."""
    chance = random.Random(seed)
    line.hear()
    done = 0
    for _ in range(rounds):
        chosen = sorted(chance.sample(range(len(mutexes)), chance.choice((1, 2, 2, 3))))
        holds = [acquire(mutexes[at], chance.choice((None, None, 60.0))) for at in chosen]
        if chance.random() < 0.002:
            time.sleep(chance.choice((0.002, 0.06)))
        for hold in reversed(holds):
            hold.release()
        done += len(holds)
    line.say(done)


def test_locks_in_one_order_are_never_a_deadlock() -> None:
    mutexes = [make(KINDS[at % 3]) for at in range(4)]
    rounds = 3_000
    children = [Child(_contend, mutexes, 1, rounds), Child(_contend, mutexes, 2, rounds)]
    with children[0], children[1], Worker(_contend, mutexes, 3, rounds) as c, Worker(_contend, mutexes, 4, rounds) as d:
        for each in (*children, c, d):
            each.say("begin")
        assert all(each.hear(120) >= rounds for each in (*children, c, d))
    assert all(mutex.waiters() == () for mutex in mutexes)


def _dine(line: Line, left: Any, right: Any, rounds: int) -> None:
    """A philosopher without manners: the left fork, then the right one; told of a deadlock, they put theirs down."""
    line.hear()
    told = 0
    done = 0
    while done < rounds:
        with acquire(left):
            time.sleep(0.001)
            try:
                with acquire(right):
                    done += 1
            except DeadlockError:
                told += 1
    line.say(told)


def test_dining_philosophers_dine() -> None:
    forks = [make(KINDS[at % 3]) for at in range(5)]
    with ended([Child(_dine, forks[at], forks[(at + 1) % 5], 30) for at in range(5)]) as tables:
        for table in tables:
            table.say("eat")
        told = [table.hear(120) for table in tables]
        assert sum(told) > 0, "they never all had their left fork at once"
