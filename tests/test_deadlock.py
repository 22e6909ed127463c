"""A wait that closes a circle raises in the thread that closed it and names the circle; nothing else raises so."""

from __future__ import annotations

import os
import pickle
import random
import signal
import threading
import time
from typing import Any

import pytest
from kinds import KINDS, acquire, make
from procs import Child, Line, Worker, wait_for_waiter, write_shm
from support import wait_until

from wdkmutex_shm import (
    CriticalSection,
    DeadlockError,
    DeadlockLink,
    FastMutex,
    KMutex,
    LockTimeout,
    MutexDestroyed,
    _board,
    shm,
)

HEADER, RECORD = 4096, 128


def _take_two(line: Line, first: Any, second: Any, timeout: float | None = None) -> None:
    """Lock one mutex, say so, and when told lock the other."""
    with acquire(first):
        line.say("has the first")
        line.hear()
        began = time.monotonic()
        try:
            with acquire(second, timeout):
                line.say("had")
                line.hear()
        except DeadlockError as error:
            line.say((error, time.monotonic() - began))
        except (LockTimeout, KeyboardInterrupt, MutexDestroyed) as error:
            line.say(type(error).__name__)


def _children(mutexes: list[Any], method: str, timeout: float | None = None) -> list[Any]:
    """One for each mutex, which it holds; it will wait for the next one."""
    pairs = [(mutex, mutexes[(at + 1) % len(mutexes)]) for at, mutex in enumerate(mutexes)]
    if method == "thread":
        return [Worker(_take_two, *pair, timeout) for pair in pairs]
    return [Child(_take_two, *pair, timeout, method=method) for pair in pairs]


def _threads_of(children: list[Any]) -> list[tuple[int, int]]:
    return [
        (child.pid, child.pid) if isinstance(child, Child) else (os.getpid(), child.thread.native_id)
        for child in children
    ]


def _close(children: list[Any], mutexes: list[Any]) -> tuple[DeadlockError, float]:
    """Let all of them wait for the next one's mutex, one after the other; return what the last one says."""
    for child in children:
        assert child.hear() == "has the first"
    for at, child in enumerate(children):
        child.say("lock the second")
        if at < len(children) - 1:
            wait_for_waiter(mutexes[(at + 1) % len(mutexes)])
    said: tuple[DeadlockError, float] = children[-1].hear()
    return said


def _the_rest_goes_on(children: list[Any]) -> None:
    """The one before the last has its lock when the last one has unwound, and so on; nobody else raises."""
    for child in reversed(children[:-1]):
        assert child.hear() == "had"
        child.say("release")


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("method", ["thread", "fork", "spawn"])
def test_a_circle_is_named_in_the_one_that_closed_it(count: int, method: str) -> None:
    mutexes = [make(KINDS[at % 3]) for at in range(count)]
    children = _children(mutexes, method)
    try:
        error, seconds = _close(children, mutexes)
        assert isinstance(error, DeadlockError)
        assert seconds < 5
        threads = _threads_of(children)
        chain = error.chain
        assert all(type(link) is DeadlockLink for link in chain)
        # The one that closed it first, then whoever holds what it waits for, and so on.
        assert [(link.pid, link.tid) for link in chain] == [threads[-1], *threads[:-1]]
        assert [link.holds for link in chain] == [chain[at - 1].waits_for for at in range(count)]
        assert [link.waits_for for link in chain] == [_called(mutex) for mutex in mutexes]
        assert all(link.command not in ("", "?") and link.waited >= 0.01 for link in chain)
        assert min(chain, key=lambda link: link.waited) == chain[0]
        assert (error.owner_pid, error.owner_tid) == threads[0]
        assert all(f"process {link.pid}" in str(error) and repr(link.holds) in str(error) for link in chain[1:])
        _the_rest_goes_on(children)
    finally:
        for child in children:
            child.__exit__(None, None, None)
    assert all(mutex.waiters() == () for mutex in mutexes)
    for mutex in mutexes:
        with acquire(mutex, 5):
            pass


def _called(mutex: Any) -> str:
    kind = {KMutex: "k", FastMutex: "fast", CriticalSection: "section"}[type(mutex)]
    return f"anonymous {kind} mutex {mutex.segment.rpartition('.p')[2]}.{mutex.slot_index} of process {os.getpid()}"


def test_named_mutexes_are_called_by_their_names(grt: str) -> None:
    mutexes = [make(kind, f"lock of kind {kind}") for kind in KINDS]
    children = _children(mutexes, "spawn")
    try:
        error, _ = _close(children, mutexes)
        assert [link.waits_for for link in error.chain] == [f"lock of kind {kind}" for kind in KINDS]
        assert error.name == "lock of kind fast"
        again = pickle.loads(pickle.dumps(error))
        assert (again.chain, again.facts, str(again)) == (error.chain, error.facts, str(error))
        _the_rest_goes_on(children)
    finally:
        for child in children:
            child.__exit__(None, None, None)


def test_threads_and_processes_in_one_circle() -> None:
    mutexes = [make(kind) for kind in KINDS]
    children: list[Any] = [
        Worker(_take_two, mutexes[0], mutexes[1]),
        Child(_take_two, mutexes[1], mutexes[2]),
        Worker(_take_two, mutexes[2], mutexes[0]),
    ]
    try:
        error, _ = _close(children, mutexes)
        assert [link.pid for link in error.chain] == [os.getpid(), os.getpid(), children[1].pid]
        _the_rest_goes_on(children)
    finally:
        for child in children:
            child.__exit__(None, None, None)


def test_a_wait_with_a_timeout_is_told_as_well() -> None:
    mutexes: list[Any] = [FastMutex(0), KMutex(0)]
    children = _children(mutexes, "fork", 60.0)
    try:
        error, seconds = _close(children, mutexes)
        assert isinstance(error, DeadlockError)
        assert seconds < 30
        _the_rest_goes_on(children)
    finally:
        for child in children:
            child.__exit__(None, None, None)


def test_every_operation_that_waits_is_told() -> None:
    for call in (
        lambda mutex: mutex.fetch_add(1),
        lambda mutex: mutex.replace(1),
        lambda mutex: mutex.lock(),
        lambda mutex: mutex.lock(30),
    ):
        mine, theirs = KMutex(0), FastMutex(0)
        with Worker(_take_two, theirs, mine) as other:
            other.hear()
            with mine.lock():
                other.say("lock the second")
                wait_for_waiter(mine)
                with pytest.raises(DeadlockError):
                    call(theirs)
                assert theirs.try_lock() is None, "who does not wait cannot be in a circle"
            assert other.hear() == "had"
            other.say("release")


@pytest.mark.parametrize("call", ["enter", "acquire", "with"])
def test_a_section_is_told(call: str) -> None:
    mine, theirs = CriticalSection(), CriticalSection()
    with Worker(_take_two, theirs, mine) as other:
        other.hear()
        with mine:
            other.say("lock the second")
            wait_for_waiter(mine)
            with pytest.raises(DeadlockError):
                if call == "enter":
                    theirs.enter()
                elif call == "acquire":
                    theirs.acquire(True, 30)
                else:
                    with theirs:
                        pass
            assert not theirs._is_owned()
        assert other.hear() == "had"
        other.say("release")


def test_recursion_is_no_deadlock() -> None:
    mutex, section = KMutex(0), CriticalSection()
    with mutex.lock(), mutex.lock() as inner, section, section:
        inner.value += 1
        assert mutex.fetch_add(1) == 1
    assert mutex.peek() == 2


def test_a_chain_that_ends_is_no_deadlock() -> None:
    """Each waits for the next, and the last one works, for several looks long."""
    mutexes = [make(KINDS[at % 3]) for at in range(4)]
    children = [Child(_take_two, mutexes[at], mutexes[at + 1]) for at in range(3)]
    try:
        last = acquire(mutexes[3])
        for child in children:
            assert child.hear() == "has the first"
        for child in children:
            child.say("lock the second")
        for mutex in mutexes[1:]:
            wait_for_waiter(mutex)
        wait_until(lambda: min(waiter.waited for mutex in mutexes[1:] for waiter in mutex.waiters()) > 0.5)
        last.release()
        _the_rest_goes_on([*children, None])
    finally:
        for child in children:
            child.__exit__(None, None, None)


def test_who_waits_for_a_circle_without_being_in_it_is_not_told() -> None:
    mutexes = [KMutex(0), FastMutex(0)]
    outside, closer = Worker(_take_two, FastMutex(0), mutexes[0], 60.0), Worker(_take_two, mutexes[1], mutexes[0])
    with Child(_take_two, mutexes[0], mutexes[1]) as first, outside, closer:
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


def test_a_stopped_process_is_part_of_a_circle() -> None:
    mutexes: list[Any] = [FastMutex(0), FastMutex(0)]
    children = _children(mutexes, "fork")
    try:
        for child in children:
            child.hear()
        children[0].say("lock the second")
        wait_until(lambda: mutexes[1].waiters())
        children[0].stop()
        children[1].say("lock the second")
        error, _ = children[1].hear()
        assert [link.pid for link in error.chain] == [children[1].pid, children[0].pid]
        children[0].proceed()
        _the_rest_goes_on(children)
    finally:
        for child in children:
            child.__exit__(None, None, None)


def _take_two_or_be_told(line: Line, first: Any, second: Any) -> None:
    # Deaf to deadlocks, so that a circle lasts: a wait of another kind is never taken for blocked.
    with acquire(first):
        line.say("has the first")
        line.hear()
        while True:
            try:
                with acquire(second):
                    line.say("had")
                    line.hear()
                return
            except DeadlockError:
                line.say("told")
                line.hear()


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_the_death_of_one_opens_the_circle(victim: int) -> None:
    mutexes: list[Any] = [make(kind) for kind in KINDS]
    children: list[Any] = [Child(_take_two_or_be_told, mutexes[at], mutexes[(at + 1) % 3]) for at in range(3)]
    try:
        for child in children:
            child.hear()
        for at, child in enumerate(children):
            child.say("lock the second")
            if at < 2:
                wait_for_waiter(mutexes[at + 1])
        assert children[2].hear() == "told"
        children[victim].kill()
        if victim != 2:
            children[2].say("try again")
        before = (victim - 1) % 3  # it waits for what the victim held, and gets it
        assert children[before].hear() == "had"
        children[before].say("release")
        last = (victim + 1) % 3
        assert children[last].hear() == "had"
        children[last].say("release")
    finally:
        for child in children:
            child.__exit__(None, None, None)
    assert all(mutex.waiters() == () for mutex in mutexes)


def _raw(number: int) -> bytes:
    with open(_board.path(), "rb") as file:
        return os.pread(file.fileno(), RECORD, HEADER + number * RECORD)


def test_the_record_of_a_dead_process_closes_no_circle() -> None:
    """This thread's own record says that it waits, but a process of another start time has written it."""
    mine, theirs = FastMutex(0), FastMutex(0)
    with Child(_take_two, theirs, mine, 0.6) as child:
        child.hear()
        with mine.lock():
            me = threading.get_native_id()
            with Worker(_take_two, KMutex(0), theirs, 0.1) as other:
                other.hear()
                other.say("lock the second")
                wait_for_waiter(theirs)
                (record,) = _board.records(theirs.nonce, theirs.slot_index, theirs.generation)
                raw = bytearray(_raw(record.number))
                assert other.hear() == "LockTimeout"
            raw[0:4] = me.to_bytes(4, "little")
            raw[16:24] = (record.start - 1).to_bytes(8, "little")
            raw[24:32] = (1).to_bytes(8, "little")  # it has waited for ever
            board, at = _board.path()[len(shm.FOLDER) :], HEADER + me % _board.RECORDS * RECORD
            write_shm(board, at, bytes(raw))
            try:
                found = _board.record_by(os.getpid(), me)
                assert found is not None
                assert found.slot == theirs.slot_index
                child.say("lock the second")
                assert child.hear() == "LockTimeout"
                # And with the start time of this process it would.
                raw[16:24] = record.start.to_bytes(8, "little")
                write_shm(board, at, bytes(raw))
                with Child(_take_two, theirs, mine, 30.0) as again:
                    again.hear()
                    again.say("lock the second")
                    error, _ = again.hear()
                    assert isinstance(error, DeadlockError)
            finally:
                write_shm(board, at, bytes(RECORD))


def test_a_handler_that_waits_in_the_midst_of_a_wait() -> None:
    """What a thread waits for is what its innermost wait is for."""
    outer, inner, mine = KMutex(0), FastMutex(0), KMutex(0)
    with outer.lock(), Child(_waits_in_a_handler, outer, inner, mine) as child:
        with inner.lock():
            assert child.hear() == "has mine"
            child.say("wait")
            wait_for_waiter(outer)
            child.signal(signal.SIGUSR1)
            wait_until(lambda: inner.waiters())
            with pytest.raises(DeadlockError) as caught:
                mine.lock()
            assert [link.pid for link in caught.value.chain] == [os.getpid(), child.pid]
            assert caught.value.chain[1].waits_for == _called(inner)
        assert child.hear() == "had inner"
        wait_until(lambda: len(outer.waiters()) == 1)
        with pytest.raises(DeadlockError) as caught:
            mine.lock()
        assert caught.value.chain[1].waits_for == _called(outer)


def _waits_in_a_handler(line: Line, outer: Any, inner: Any, mine: Any) -> None:
    def handler(number: int, frame: object) -> None:
        with inner.lock():
            pass
        line.say("had inner")

    signal.signal(signal.SIGUSR1, handler)
    with mine.lock():
        line.say("has mine")
        line.hear()
        with outer.lock():
            line.say("had outer")


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
    tables = [Child(_dine, forks[at], forks[(at + 1) % 5], 30) for at in range(5)]
    try:
        for table in tables:
            table.say("eat")
        told = [table.hear(120) for table in tables]
        assert sum(told) > 0, "they never all had their left fork at once"
    finally:
        for table in tables:
            table.__exit__(None, None, None)


def test_who_takes_a_section_back_is_not_told_but_another_is() -> None:
    """What Condition.wait() does with a section, step by step."""
    section, mutex = CriticalSection(), KMutex(0)
    section.enter()
    section.enter()
    with mutex.lock(), Child(_take_two, section, mutex) as other:
        state = section._release_save()
        other.hear()
        other.say("lock the second")
        wait_until(lambda: mutex.waiters())
        section._acquire_restore(state)  # this closes the circle, and still returns with the section
        error, _ = other.hear()
        assert isinstance(error, DeadlockError)
        assert [link.pid for link in error.chain] == [other.pid, os.getpid()]
        assert section._recursion_count() == 2
        section.leave()
        section.leave()


def test_the_next_wait_after_taking_back_is_one_like_any_other() -> None:
    section = CriticalSection()
    section.enter()
    section._acquire_restore(section._release_save())
    section.leave()
    mine, theirs = KMutex(0), FastMutex(0)
    with Child(_take_two, theirs, mine) as other:
        other.hear()
        with mine.lock():
            other.say("lock the second")
            wait_for_waiter(mine)
            with pytest.raises(DeadlockError):
                theirs.lock()
        assert other.hear() == "had"
        other.say("release")


def _circle_without_descriptors(line: Line, mine: Any, theirs: Any) -> None:
    import resource

    with acquire(mine):
        line.say("has the first")
        line.hear()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        began = time.monotonic()
        try:
            theirs.lock(0.3)
        except LockTimeout as error:
            told: object = type(error).__name__
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        line.say((told, time.monotonic() - began > 0.25))


def test_without_a_descriptor_there_is_no_deadlock_and_no_other_error() -> None:
    mine, theirs = KMutex(0), FastMutex(0)
    with theirs.lock(), Child(_circle_without_descriptors, mine, theirs) as other:
        other.hear()
        ticket = _board.enter(mine, _board.WAIT_LOCK, 1)  # as if this thread had waited for ever
        other.say("lock the second")
        assert other.hear() == ("LockTimeout", True)
        _board.leave(ticket)
