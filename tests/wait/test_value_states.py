"""Waiting for a value in every state of the mutex, at every IRQL, and what it costs."""

from __future__ import annotations

import signal
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kinds import destroy
from processes import Child, Line, Worker, read_shm, slot_offset, state_of, wait_until, write_shm
from support import Fork, kill_daemon
from waits import SOON, WATCHED_AT, asleep, is_free, told, wait_in, waiter

from wdkmutex_shm import (
    AlreadyOwned,
    Grt,
    IrqlTooHigh,
    KMutex,
    LockTimeout,
    MutexDestroyed,
    NotOwned,
    raise_irql,
)
from wdkmutex_shm.core._core import ON_COMMIT
from wdkmutex_shm.wait import (
    deadline,
)


@pytest.fixture(params=["lock_when", "wait_for", "changes", "guard"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def alarm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# --- who holds it ---


def test_who_holds_the_lock_cannot_wait_for_others(cls: Any) -> None:
    mutex = cls(1)
    with mutex.lock() as guard:
        with pytest.raises(AlreadyOwned, match="guard.wait_for"):
            mutex.lock_when(lambda value: value == 1)
        with pytest.raises(AlreadyOwned):
            mutex.wait_for(lambda value: value == 2)
        assert mutex.wait_for(lambda value: value == 1) == 1
        changes = mutex.changes()
        assert next(changes) == 1
        with pytest.raises(AlreadyOwned):
            next(changes)
        assert not guard.released


def test_a_kmutex_that_is_locked_twice_is_not_released_for_a_wait() -> None:
    mutex = KMutex(1)
    with mutex.lock() as outer:
        outer.value = 2
        with mutex.lock() as inner:
            for guard in (inner, outer):
                with pytest.raises(AlreadyOwned, match="more than once"):
                    guard.wait_for(lambda value: value == 3, timeout=0)
            assert mutex.peek() == 1
        outer.wait_for(lambda value: value == 2)
        assert mutex.peek() == 2
        with mutex.lock() as inner:
            assert inner.value == 2


def test_a_guard_that_holds_nothing_waits_for_nothing(cls: Any) -> None:
    mutex = cls(1)
    with mutex.lock() as guard:
        with Worker(lambda line: line.say(_refused(guard))) as worker:
            assert worker.hear()
        assert Fork(lambda: _refused(guard)).result()
    assert _refused(guard)


def _refused(guard: Any) -> bool:
    with pytest.raises(NotOwned):
        guard.wait_for(bool)
    return True


def test_a_forked_child_waits_for_itself(cls: Any) -> None:
    mutex = cls(0)
    with mutex.lock() as guard, Child(waiter, mutex, "lock_when", 1) as child:
        asleep(child)
        guard.value = 1
        guard.drop_safe()
        assert child.hear() == 1


def test_a_guard_after_a_wait_is_as_before(cls: Any) -> None:
    mutex = cls([0])
    with mutex.lock() as guard:
        guard.value.append(1)
        kept = guard.value
        with Worker(_append_when_free, mutex) as worker:
            guard.wait_for(lambda value: len(value) == 3, timeout=30)
            worker.hear()
        assert guard.value == [0, 1, 2]
        assert guard.value is not kept
        guard.value.append(3)
        guard.rollback()
        guard.value.append(4)
    assert guard.released
    assert mutex.peek() == [0, 1, 2, 4]
    assert is_free(mutex)


def _append_when_free(line: Line, mutex: Any) -> None:
    with mutex.lock_when(lambda value: len(value) == 2) as guard:
        guard.value.append(2)
    line.say()


def test_what_cannot_be_committed_is_not_released(cls: Any) -> None:
    mutex = cls([0])
    with pytest.raises(TypeError), mutex.lock() as guard:
        guard.value.append(object())
        try:
            guard.wait_for(lambda value: len(value) == 2)
        finally:
            assert not guard.released
            assert not is_free(mutex)
    assert mutex.peek() == [0]


# --- owners that die, mutexes that go, Ctrl-C ---


def _killed_after_commit(line: Line, mutex: Any) -> None:
    guard = mutex.lock()
    guard.value = 1
    guard.commit()
    line.say()
    line.hear()


def test_a_dead_owner_is_told_of(cls: Any) -> None:
    mutex = cls(0)
    with Child(_killed_after_commit, mutex) as child:
        child.hear()
        with Worker(lambda line: line.say(mutex.lock_when(bool).abandoned_by)) as worker:
            child.kill()
            assert worker.hear() == child.pid


def test_a_commit_whose_maker_was_killed_before_it_told(cls: Any) -> None:
    """The commit is in shared memory and nobody was woken for it: as if the maker died between the two."""
    mutex = cls(0)
    with Child(waiter, mutex, "wait_for", 1) as child:
        asleep(child)
        write_shm(mutex.segment, slot_offset(mutex, WATCHED_AT), bytes(4))
        mutex.replace(1)
        assert child.hear(10 * deadline.LONGEST_SLEEP) == 1


def test_the_end_of_the_mutex_ends_the_wait(cls: Any, form: str) -> None:
    mutex = cls(0)
    with Child(waiter, mutex, form, 1) as child:
        asleep(child)
        destroy(mutex)
        assert child.hear() == "destroyed"
    with pytest.raises(MutexDestroyed):
        wait_in(form, mutex, bool)


def test_a_registered_mutex_without_its_daemon(form: str, grt: str) -> None:
    mutex = Grt.register_fast_mutex("n", 0)
    with Child(waiter, mutex, form, 1) as child:
        asleep(child)
        kill_daemon(grt)
        mutex.replace(1)
        assert child.hear() == 1


@pytest.mark.usefixtures("grt")
def test_overwriting_the_name_ends_the_wait() -> None:
    mutex = Grt.register_fast_mutex("n", 0)
    with Child(waiter, mutex, "lock_when", 1) as child:
        asleep(child)
        Grt.register_fast_mutex("n", 1)
        assert child.hear() == "destroyed"


def _interrupted(line: Line, mutex: Any, form: str) -> None:
    line.say("waiting")
    try:
        wait_in(form, mutex, lambda value: value == 1)
    except KeyboardInterrupt:
        line.say("interrupted")
    line.hear()
    line.say(is_free(mutex))


def test_ctrl_c_ends_the_wait(cls: Any, form: str) -> None:
    mutex = cls(0)
    with Child(_interrupted, mutex, form) as child:
        asleep(child)
        child.signal(signal.SIGINT)
        assert child.hear() == "interrupted"
        child.say("and now")
        assert child.hear() is True


@pytest.mark.usefixtures("alarm")
def test_a_handler_that_does_not_raise_does_not_end_the_wait(cls: Any, form: str) -> None:
    mutex = cls(0)
    signal.signal(signal.SIGALRM, lambda *_: mutex.replace(1))
    signal.setitimer(signal.ITIMER_REAL, SOON)
    assert wait_in(form, mutex, bool, timeout=30) == 1


def _interrupted_twice(line: Line, mutex: Any) -> None:
    guard = mutex.lock()
    line.say("waiting")
    try:
        guard.wait_for(lambda value: value == 1)
    except KeyboardInterrupt:
        line.say(guard.released)


def test_a_second_ctrl_c_gives_the_guard_up(cls: Any) -> None:
    mutex = cls(0)
    with Child(_interrupted_twice, mutex) as child:
        asleep(child)
        with mutex.lock(timeout=30):
            child.signal(signal.SIGINT)
            assert child.silent(SOON)
            wait_until(lambda: state_of(child.pid) == "S", "it waits for the lock")
            child.signal(signal.SIGINT)
            assert child.hear() is True


# --- IRQL ---


def test_irql(cls: Any) -> None:
    mutex = cls(1)
    with raise_irql(2):
        for call in (
            lambda: mutex.lock_when(bool),
            lambda: mutex.wait_for(bool),
            lambda: next(mutex.changes()),
            lambda: mutex.lock_when(bool, timeout=1),
        ):
            with pytest.raises(IrqlTooHigh):
                call()
    assert mutex.peek() == 1
    with mutex.lock() as guard:
        guard.value = 2
        with raise_irql(2), pytest.raises(IrqlTooHigh):
            guard.wait_for(bool)
        assert mutex.peek() == 1
        assert not guard.released
        guard.wait_for(bool)  # a holder of a FastMutex is at APC


def test_irql_of_a_look(cls: Any) -> None:
    mutex = cls(1)
    with raise_irql(2):
        if cls is KMutex:
            assert mutex.wait_for(bool, timeout=0) == 1
            assert mutex.lock_when(bool, timeout=0).value == 1
        else:
            with pytest.raises(IrqlTooHigh):
                mutex.wait_for(bool, timeout=0)
            with pytest.raises(IrqlTooHigh):
                mutex.lock_when(bool, timeout=0)


def test_in_an_event_loop(cls: Any) -> None:
    import asyncio

    mutex = cls(1)

    async def main() -> None:
        with pytest.raises(IrqlTooHigh):
            mutex.lock_when(bool)
        with pytest.raises(IrqlTooHigh):
            mutex.wait_for(bool)
        with pytest.raises(IrqlTooHigh):
            next(mutex.changes())

    asyncio.run(main())


# --- what it costs ---


def test_who_waits_for_another_value_uses_no_processor(cls: Any, form: str) -> None:
    mutex = cls(0)
    with Child(waiter, mutex, form, 1) as child:
        asleep(child)
        before = _processor_time(child.pid)
        switches = _switches(child.pid)
        assert child.silent(1.5)
        assert _processor_time(child.pid) - before <= 2  # clock ticks
        assert _switches(child.pid) - switches <= 20
        mutex.replace(1)
        assert child.hear() == 1


def _processor_time(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _switches(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        (line,) = (line for line in file if line.startswith("voluntary_ctxt_switches"))
    return int(line.split()[1])


def test_a_commit_that_nobody_waits_for_wakes_nobody(cls: Any) -> None:
    mutex = cls(0)
    mutex.wait_for(lambda value: value == 0)
    with pytest.raises(LockTimeout):
        mutex.lock_when(lambda value: value == 2, timeout=SOON)
    mutex.replace(1)  # clears what the waiter has left behind
    before = told(mutex)
    for _ in range(100):
        mutex.fetch_add(1)
        with mutex.lock_when(bool) as guard:
            guard.value += 1
    assert told(mutex) == before


def test_a_release_without_a_commit_wakes_nobody(cls: Any) -> None:
    mutex = cls(0)
    with Child(waiter, mutex, "lock_when", 1) as child:
        asleep(child)
        before = told(mutex)
        for _ in range(10):
            with mutex.lock() as guard:
                assert guard.value == 0
        assert told(mutex) == before
        (watched,) = struct.unpack("=I", read_shm(mutex.segment, slot_offset(mutex, WATCHED_AT), 4))
        assert watched & ON_COMMIT
        mutex.replace(1)
        assert child.hear() == 1


def test_threads_of_one_process_wait_for_each_other(cls: Any) -> None:
    mutex, rounds = cls(0), 200

    def work(mine: int) -> None:
        for _ in range(rounds):
            with mutex.lock_when(lambda value: value % 3 == mine, timeout=60) as guard:
                guard.value += 1

    threads = [threading.Thread(target=work, args=(mine,)) for mine in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mutex.peek() == 3 * rounds
