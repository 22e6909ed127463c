"""Circles of waits in which somebody dies, is stopped or interrupted, takes back what it had, or has no descriptor."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest
from deadlocks import called, circle, ended, take_two, the_rest_goes_on, waited_for
from kinds import KINDS, acquire, make
from processes import Child, Line, Worker, wait_for_waiter, write_shm
from support import wait_until
from wait_board import HEADER, RECORD, raw_record

from wdkmutex_shm import (
    CriticalSection,
    DeadlockError,
    FastMutex,
    KMutex,
    LockTimeout,
)
from wdkmutex_shm.core import _core
from wdkmutex_shm.memory import (
    shm,
)


def test_a_stopped_process_is_part_of_a_circle() -> None:
    mutexes: list[Any] = [FastMutex(0), FastMutex(0)]
    with circle(mutexes, "fork") as children:
        for child in children:
            child.hear()
        children[0].say("lock the second")
        wait_until(lambda: mutexes[1].waiters())
        children[0].stop()
        children[1].say("lock the second")
        error, _ = children[1].hear()
        assert [link.pid for link in error.chain] == [children[1].pid, children[0].pid]
        children[0].proceed()
        the_rest_goes_on(children)


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
    with ended([Child(_take_two_or_be_told, mutexes[at], mutexes[(at + 1) % 3]) for at in range(3)]) as children:
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
    assert all(mutex.waiters() == () for mutex in mutexes)


def test_the_record_of_a_dead_process_closes_no_circle() -> None:
    """This thread's own record says that it waits, but a process of another start time has written it."""
    mine, theirs = FastMutex(0), FastMutex(0)
    with Child(take_two, theirs, mine, 0.6) as child:
        child.hear()
        with mine.lock():
            me = threading.get_native_id()
            with Worker(take_two, KMutex(0), theirs, 0.1) as other:
                other.hear()
                other.say("lock the second")
                wait_for_waiter(theirs)
                (record,) = _core.wait_records(theirs.nonce, theirs.slot_index, theirs.generation)
                raw = bytearray(raw_record(record.number))
                assert other.hear() == "LockTimeout"
            raw[0:4] = me.to_bytes(4, "little")
            raw[16:24] = (record.start - 1).to_bytes(8, "little")
            raw[24:32] = (1).to_bytes(8, "little")  # it has waited for ever
            board, at = _core.wait_board_path()[len(shm.FOLDER) :], HEADER + me % _core.BOARD_RECORDS * RECORD
            write_shm(board, at, bytes(raw))
            try:
                found = _core.wait_record_by(os.getpid(), me)
                assert found is not None
                assert found.slot == theirs.slot_index
                child.say("lock the second")
                assert child.hear() == "LockTimeout"
                # And with the start time of this process it would.
                raw[16:24] = record.start.to_bytes(8, "little")
                write_shm(board, at, bytes(raw))
                with Child(take_two, theirs, mine, 30.0) as again:
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
            assert caught.value.chain[1].waits_for == called(inner)
        assert child.hear() == "had inner"
        wait_until(lambda: len(outer.waiters()) == 1)
        with pytest.raises(DeadlockError) as caught:
            mine.lock()
        assert caught.value.chain[1].waits_for == called(outer)


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


def test_who_takes_a_section_back_is_not_told_but_another_is() -> None:
    """What Condition.wait() does with a section, step by step."""
    section, mutex = CriticalSection(), KMutex(0)
    section.enter()
    section.enter()
    with mutex.lock(), Child(take_two, section, mutex) as other:
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


def test_a_guard_that_waited_for_a_value_has_its_lock_again_after_it_closed_a_circle() -> None:
    outer, inner = KMutex(0), KMutex(0)
    with outer.lock(), inner.lock() as guard, Child(take_two, inner, outer) as other:

        def lead() -> None:
            assert other.hear() == "has the first"  # while the guard waits
            other.say("lock the second")

        leader = threading.Thread(target=lead)
        leader.start()
        with pytest.raises(DeadlockError):
            guard.wait_for(lambda _: outer.waiters(), timeout=60)
        leader.join()
        error, _ = other.hear()
        assert isinstance(error, DeadlockError)
        assert [link.pid for link in error.chain] == [other.pid, os.getpid()]
        guard.value = 1
    assert inner.peek() == 1


def test_the_next_wait_after_taking_back_is_one_like_any_other() -> None:
    section = CriticalSection()
    section.enter()
    section._acquire_restore(section._release_save())
    section.leave()
    mine, theirs = KMutex(0), FastMutex(0)
    with waited_for(mine, theirs, Child), pytest.raises(DeadlockError):
        theirs.lock()


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
        ticket = _core.begin_wait(mine, _core.WAIT_LOCK, 1)  # as if this thread had waited for ever
        other.say("lock the second")
        assert other.hear() == ("LockTimeout", True)
        _core.end_wait(ticket)
