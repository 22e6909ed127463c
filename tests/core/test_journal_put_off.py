"""A note that cannot be settled now is settled by who can, and nobody works on T before that, whoever gives up."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from journals import COUNT, NEW, OLD, PENDING_AT, die_after, word
from processes import STARVING_AT, Child, Line, in_child, read_shm, slot_offset, wait_until

from wdkmutex_shm import (
    Grt,
    LockTimeout,
    MutexDestroyed,
    PagedPoolAllocFailed,
    lock_any,
)
from wdkmutex_shm.core import _core
from wdkmutex_shm.memory import (
    journal_files,
)

UNSETTLED = 1 << 31
DECIDED = COUNT + 2  # stores until the journal says so, and the first commit word is raised


@pytest.fixture
def no_journal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Let no journal be opened by this process until what this gives is called."""

    def refuse(*_: Any) -> bool:
        raise PagedPoolAllocFailed("no descriptor is free")

    monkeypatch.setattr(journal_files, "decided", refuse)
    yield monkeypatch.undo


def starving(mutex: Any) -> int:
    (found,) = struct.unpack("=I", read_shm(mutex.segment, slot_offset(mutex, STARVING_AT), 4))
    return int(found)


def _take(mutex: Any) -> int:
    with mutex.lock(timeout=30) as guard:
        return int(guard.value)


def _put_off(mutex: Any) -> None:
    with pytest.raises(PagedPoolAllocFailed):
        mutex.lock(timeout=30)
    assert mutex.owner is None


@pytest.mark.parametrize("done", [COUNT, DECIDED])
def test_a_waiter_that_gives_up_does_not_hide_the_note(cls: Any, no_journal: Any, done: int) -> None:
    """It counted as starving before a newcomer lost its patience and set the count to zero; now it takes itself out."""
    mutexes = [cls(0) for _ in range(COUNT)]
    with die_after(mutexes, done):
        mutex = mutexes[-1]
        _put_off(mutex)
        assert starving(mutex) == UNSETTLED
        _core.end_starving(mutex)
        assert starving(mutex) == UNSETTLED
        assert in_child(_take_with_a_journal, mutex) == (NEW if done == DECIDED else OLD)
        assert (starving(mutex), word(mutex, PENDING_AT)) == (0, 0)
        for other in mutexes[:-1]:
            no_journal()
            assert _take(other) == (NEW if done == DECIDED else OLD)


def _take_with_a_journal(mutex: Any) -> int:
    journal_files.decided = _decided
    return _take(mutex)


_decided = journal_files.decided


def test_a_newcomer_that_loses_its_patience_does_not_either(cls: Any, no_journal: Any) -> None:
    mutexes = [cls(0) for _ in range(COUNT)]
    with die_after(mutexes, DECIDED):
        mutex = mutexes[-1]
        _put_off(mutex)
        _core.begin_starving(mutex)  # who does not come
        assert starving(mutex) == UNSETTLED + 1
        _put_off(mutex)
        assert starving(mutex) == UNSETTLED
        _core.begin_starving(mutex)
        wait_until(lambda: _tries(mutex), "who only tries loses its patience, too")
        assert starving(mutex) == UNSETTLED
        no_journal()
        assert [_take(each) for each in mutexes] == [NEW] * COUNT
        assert starving(mutex) == 0


def _tries(mutex: Any) -> bool:
    try:
        assert mutex.try_lock() is None
    except PagedPoolAllocFailed:
        return True
    return False


def _take_any(mutex: Any) -> int:
    _, guard = lock_any(mutex, timeout=30)
    with guard:
        return int(guard.value)


@pytest.mark.parametrize(
    "take",
    [
        pytest.param(_take, id="lock"),
        pytest.param(lambda mutex: mutex.try_lock().value, id="try_lock"),
        pytest.param(lambda mutex: mutex.lock(timeout=0).value, id="timeout of 0"),
        pytest.param(lambda mutex: mutex.fetch_add(0), id="fetch_add"),
        pytest.param(lambda mutex: mutex.replace(NEW), id="replace"),
        pytest.param(_take_any, id="lock_any"),
        pytest.param(lambda mutex: mutex.to_owned(), id="to_owned"),
    ],
)
def test_whoever_comes_next_settles_it(cls: Any, no_journal: Any, take: Any) -> None:
    """Also without waiting, and though it looks like a lock that is free."""
    mutexes = [cls(0) for _ in range(COUNT)]
    with die_after(mutexes, DECIDED):
        for mutex in mutexes:
            _put_off(mutex)
        no_journal()
        assert [take(mutex) for mutex in mutexes] == [NEW] * COUNT


@pytest.mark.parametrize("form", ["wait_for", "lock_when", "wait_for_async"])
def test_who_waits_for_that_commit_settles_it(cls: Any, no_journal: Any, form: str) -> None:
    """Nobody else comes: what they wait for is committed by whoever settles the note."""
    mutexes = [cls(0) for _ in range(COUNT)]
    with die_after(mutexes, DECIDED):
        for mutex in mutexes:
            _put_off(mutex)
        no_journal()
        for mutex in mutexes[1:]:  # the commit word of the first was raised
            if form == "wait_for":
                assert mutex.wait_for(lambda value: value == NEW, timeout=30) == NEW
            elif form == "lock_when":
                mutex.lock_when(lambda value: value == NEW, timeout=30).drop_safe()
            else:
                assert asyncio.run(_waits_for_new(mutex)) == NEW
            assert starving(mutex) == 0
        assert _take(mutexes[0]) == NEW


async def _waits_for_new(mutex: Any) -> int:
    return int(await mutex.wait_for_async(lambda value: value == NEW, timeout=30))


def test_it_is_no_starving_waiter(cls: Any, no_journal: Any) -> None:
    """Who may not wait is not turned away, and a timeout tells of nobody who waits."""
    mutexes = [cls(0) for _ in range(COUNT)]
    with die_after(mutexes, DECIDED):
        _put_off(mutexes[0])
        with pytest.raises(PagedPoolAllocFailed):
            mutexes[0].lock(timeout=0)
        no_journal()
        with Child(_holds, mutexes[0]) as child:
            child.hear()
            with pytest.raises(LockTimeout) as caught:
                mutexes[0].lock(timeout=0)
            assert caught.value.waiters == 0
            child.say()
        assert [_take(mutex) for mutex in mutexes] == [NEW] * COUNT


def _holds(line: Line, mutex: Any) -> None:
    with mutex.lock():
        line.say()
        line.hear()


@pytest.mark.usefixtures("grt")
def test_a_mutex_that_is_destroyed_before_it_could_be_settled(no_journal: Any) -> None:
    named = [Grt.register_fast_mutex(f"n{number}", 0) for number in range(COUNT)]
    with die_after(named, DECIDED):
        _put_off(named[0])
        Grt.unregister("n0")
        with pytest.raises(MutexDestroyed):
            named[0].lock(timeout=30)
        again = Grt.register_fast_mutex("n0", 7)
        assert starving(again) == 0
        no_journal()
        assert [_take(mutex) for mutex in (again, *named[1:])] == [7, NEW, NEW]


def _runs_out(line: Line, mutexes: list[Any]) -> None:
    """No descriptor is free, then one is."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
    filling = []
    try:
        while True:
            filling.append(os.dup(0))
    except OSError:
        pass
    failed = 0
    for mutex in mutexes:
        try:
            mutex.lock(timeout=30)
        except PagedPoolAllocFailed:
            failed += 1
    for fd in filling:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    line.say(failed)
    line.hear()


def test_a_process_without_a_descriptor(cls: Any) -> None:
    mutexes = [cls(0) for _ in range(COUNT)]
    with die_after(mutexes, DECIDED), Child(_runs_out, mutexes) as child:
        assert child.hear() == COUNT
        for mutex in mutexes:
            assert starving(mutex) == UNSETTLED
            _core.end_starving(mutex)
        assert [_take(mutex) for mutex in mutexes] == [NEW] * COUNT
        assert [starving(mutex) for mutex in mutexes] == [0] * COUNT


def test_ctrl_c_in_the_take_over(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mutexes = [cls(0) for _ in range(COUNT)]

    def interrupted(*args: Any) -> bool:
        signal.raise_signal(signal.SIGINT)
        return _decided(*args)

    with die_after(mutexes, DECIDED):
        monkeypatch.setattr(journal_files, "decided", interrupted)
        for mutex in mutexes:
            with pytest.raises(KeyboardInterrupt):
                mutex.lock(timeout=30)
            _core.end_starving(mutex)
        monkeypatch.undo()
        assert [in_child(_take, mutex) for mutex in mutexes] == [NEW] * COUNT
        assert [_take(mutex) for mutex in mutexes] == [NEW] * COUNT


def _is_killed_in_the_take_over(line: Line, mutex: Any) -> None:
    def killed(*_: Any) -> bool:
        os.kill(os.getpid(), signal.SIGKILL)
        return False

    journal_files.decided = killed
    line.say()
    mutex.lock()


def test_killed_in_the_take_over(cls: Any) -> None:
    mutexes = [cls(0) for _ in range(COUNT)]
    with die_after(mutexes, DECIDED):
        with Child(_is_killed_in_the_take_over, mutexes[0]) as child:
            child.hear()
            assert child.end() == -signal.SIGKILL
        assert starving(mutexes[0]) == UNSETTLED
        assert [_take(mutex) for mutex in mutexes] == [NEW] * COUNT
        assert starving(mutexes[0]) == 0
