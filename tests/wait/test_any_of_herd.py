"""Many wait in lock_any: a release wakes one of them and not all, and no wake is lost, whoever is stopped or killed."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kinds import acquire
from processes import state_of, wait_for_waiter
from support import Fork, wait_until

from wdkmutex_shm import FastMutex, KMutex, LockTimeout, lock_any
from wdkmutex_shm.core import _core

SETTLED = 0.35
"""Seconds of waiting after which a waiter looks once a second at most, unless it is woken."""
SOON = 0.5
"""Seconds: less than until that look."""
LOOK = 5.0
"""Seconds within which somebody has looked for himself."""


class Gate:
    """Children say which lock they have, and keep it until the gate is opened."""

    def __init__(self) -> None:
        self._read, self._told = os.pipe()
        self._shut, self._open = os.pipe()

    def enter(self) -> None:
        """In a child, first of all: it must not be the one that keeps the gate shut."""
        self.open()

    def pass_through(self, index: int) -> None:
        os.write(self._told, bytes([index]))
        os.read(self._shut, 1)

    def told(self) -> int:
        return os.read(self._read, 1)[0]

    def open(self) -> None:
        if self._open >= 0:
            os.close(self._open)
            self._open = -1

    def close(self) -> None:
        self.open()
        for fd in (self._read, self._told, self._shut):
            os.close(fd)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.close()


def _waits(*mutexes: Any, gate: Gate | None = None) -> Callable[[], float]:
    """In a child: waits for any, or for the one; returns when it had the lock."""

    def work() -> float:
        if gate is not None:
            gate.enter()
        index, guard = lock_any(*mutexes) if len(mutexes) > 1 else (0, acquire(mutexes[0]))
        had = time.monotonic()
        if gate is not None:
            gate.pass_through(index)
        del guard
        return had

    return work


def _settled(*children: Fork) -> None:
    time.sleep(SETTLED)
    _asleep(*children)


def _asleep(*children: Fork) -> None:
    wait_until(lambda: all(state_of(child.pid) == "S" for child in children), "they sleep")


@contextlib.contextmanager
def _before_it_runs(child: Fork) -> Iterator[None]:
    """What wakes the child in here wakes it for all of that: it has to wait for the processor, which this one has."""
    mine = os.sched_getaffinity(0)
    one = {min(mine)}
    os.sched_setscheduler(child.pid, os.SCHED_BATCH, os.sched_param(0))
    os.sched_setaffinity(child.pid, one)
    os.sched_setaffinity(0, one)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(child.pid, mine)
        os.sched_setaffinity(0, mine)


def _switches(children: list[Fork]) -> int:
    found = 0
    for child in children:
        with open(f"/proc/{child.pid}/status", encoding="utf-8", errors="replace") as file:
            (line,) = (line for line in file if line.startswith("voluntary_ctxt_switches"))
        found += int(line.split()[1])
    return found


def _sleeps_on_many() -> bool:
    """Whether the kernel has futex_waitv(2), and lets us: else waiters look every 2 ms."""
    one, other = FastMutex(0), FastMutex(0)

    def wait() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        with pytest.raises(LockTimeout):
            lock_any(one, other, timeout=0.4)
        return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before

    with one.lock(), other.lock(), Fork(wait) as child:
        return int(child.result()) < 40


@pytest.mark.slow
def test_a_release_wakes_one_of_many(gate: Gate) -> None:
    if not _sleeps_on_many():
        pytest.skip("this kernel cannot sleep on several words at once")
    mutexes = [KMutex(0) for _ in range(16)]
    guards = [mutex.lock() for mutex in mutexes]
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Fork(_waits(*mutexes, gate=gate))) for _ in range(30)]
        for mutex in mutexes:
            wait_for_waiter(mutex, len(children))
        _settled(*children)
        before = _switches(children)
        for at in range(8):
            guards[at].drop_safe()
            assert gate.told() == at
            _asleep(*children)
        # to wake all of them each time would be more than two hundred
        assert _switches(children) - before < 100
        for guard in guards[8:]:
            guard.drop_safe()
        gate.open()
        for child in children:
            child.result()


@pytest.mark.slow
@pytest.mark.parametrize("other", ["lock", "lock_any"])
def test_who_is_woken_for_two_locks_takes_one_and_wakes_another_waiter(other: str) -> None:
    mutexes = [FastMutex(0), KMutex(0), KMutex(0)]
    guards = [mutex.lock() for mutex in mutexes]
    with Fork(_waits(*mutexes[:2])) as both:
        _settled(both)
        of = mutexes[1:] if other == "lock_any" else mutexes[1:2]
        with Fork(_waits(mutexes[0])) as first, Fork(_waits(*of)) as second:
            for mutex in mutexes[:2]:
                wait_for_waiter(mutex, 2)
            _settled(first, second)
            with _before_it_runs(both):
                guards[0].drop_safe()
                guards[1].drop_safe()
            started = time.monotonic()
            had = [child.result() - started for child in (both, first, second)]
            assert max(had) < SOON, had
    guards[2].drop_safe()


@pytest.mark.slow
def test_who_is_killed_as_it_is_woken_takes_no_lock_from_the_others() -> None:
    mutexes = [KMutex(0), KMutex(0), KMutex(0)]
    guards = [mutex.lock() for mutex in mutexes]
    with Fork(_waits(*mutexes[:2])) as both:
        _settled(both)
        with Fork(_waits(mutexes[0])) as first, Fork(_waits(*mutexes[1:])) as second:
            for mutex in mutexes[:2]:
                wait_for_waiter(mutex, 2)
            _settled(first, second)
            with _before_it_runs(both):
                guards[0].drop_safe()
                guards[1].drop_safe()
                both.kill()
            started = time.monotonic()
            assert max(child.result() - started for child in (first, second)) < LOOK
    guards[2].drop_safe()


@pytest.mark.slow
def test_who_gives_up_takes_no_wake_along() -> None:
    """Woken, and interrupted before it has looked: whoever waits behind it is woken in its place."""
    mutexes = [KMutex(0), KMutex(0)]
    guards = [mutex.lock() for mutex in mutexes]

    def gives_up() -> str:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            lock_any(*mutexes)
        except KeyboardInterrupt:
            return "interrupted"
        return "had"

    with Fork(gives_up) as both:
        _settled(both)
        with Fork(_waits(*mutexes)) as other:
            wait_for_waiter(mutexes[0], 2)
            _settled(other)
            with _before_it_runs(both):
                guards[0].drop_safe()
                os.kill(both.pid, signal.SIGINT)
            started = time.monotonic()
            assert other.result() - started < SOON
            assert both.result() == "interrupted"
    guards[1].drop_safe()


@pytest.mark.slow
def test_the_death_of_a_holder_wakes_who_waits_for_any(gate: Gate) -> None:
    mutexes = [FastMutex(0), KMutex(0)]
    guard = mutexes[1].lock()
    with Fork(_waits(mutexes[0], gate=gate)) as holder:
        gate.told()
        with Fork(_waits(*mutexes)) as child:
            wait_for_waiter(mutexes[0])
            _settled(child)
            started = time.monotonic()
            holder.kill()
            assert child.result() - started < SOON
    guard.drop_safe()


@pytest.mark.slow
def test_a_herd_of_which_many_are_killed() -> None:
    """At whatever instruction of a wait: who lives gets a lock soon, each time."""
    mutexes = [KMutex(0) for _ in range(6)]
    guards = [mutex.lock() for mutex in mutexes[:4]]

    def work() -> float:
        longest = 0.0
        for _ in range(300):
            started = time.monotonic()
            _, guard = lock_any(*mutexes, timeout=30)
            longest = max(longest, time.monotonic() - started)
            guard.drop_safe()
        return longest

    for _ in range(4):
        with Fork(work) as one, Fork(work) as other:
            for number in range(12):
                with Fork(work) as killed:
                    time.sleep(0.001 * (number % 4))
                    killed.kill()
            assert max(one.result(), other.result()) < LOOK
    for guard in guards:
        guard.drop_safe()
    assert sum(_take_all(mutexes)) == len(mutexes)


def _take_all(mutexes: list[Any]) -> Iterator[int]:
    for mutex in mutexes:
        with mutex.lock(timeout=LOOK):
            yield 1


@pytest.mark.slow
def test_waits_for_many_are_spread_over_the_board(gate: Gate) -> None:
    """Those with the next thread ids do not crowd the same places, so all of them are seen."""
    mutexes = [FastMutex(0) for _ in range(64)]

    def show() -> None:
        gate.enter()
        wait = _core.Wait(_core.WAIT_ANY)
        wait.show(mutexes)
        gate.pass_through(0)
        wait.end()

    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Fork(show)) for _ in range(24)]
        for _ in children:
            gate.told()
        noted = len(_core.wait_records())
        gate.open()
        for child in children:
            child.result()
    assert noted > 1400
