"""Several mutexes are published as one: whatever store their holder was killed after, all are published or none."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from typing import Any

import pytest
from journals import COMMIT_AT, COUNT, NEW, OLD, PENDING_AT, STEPS, die_after, journal_of, word
from processes import Child, Line, Worker, wait_until

from wdkmutex_shm import (
    Grt,
    KMutex,
    LockTimeout,
    PagedPoolAllocFailed,
    lock_all,
)
from wdkmutex_shm.base import layout
from wdkmutex_shm.base.names import user_prefix
from wdkmutex_shm.core import _core
from wdkmutex_shm.memory import (
    journal_files,
    shm,
)
from wdkmutex_shm.pool import (
    sweep,
)


@pytest.mark.parametrize("done", range(STEPS + 1))
@pytest.mark.parametrize("first", range(COUNT))
def test_killed_after_each_store(cls: Any, done: int, first: int) -> None:
    """Whoever comes first to which of them: all are as they were, or all are new."""
    mutexes = [cls(0) for _ in range(COUNT)]
    with die_after(mutexes, done) as child:
        name = f"{user_prefix()}@{child.pid}."
        expected = NEW if done > COUNT else OLD
        with mutexes[first].lock(timeout=30) as guard:
            assert guard.abandoned_by == child.pid
            assert guard.value == expected
        sweep.dead_private_pools()  # does not take away what the others need
        with lock_all(*mutexes) as guards:
            assert [guard.value for guard in guards] == [expected] * COUNT
            assert [word(mutex, PENDING_AT) for mutex in mutexes] == [0] * COUNT
            for guard in guards:
                guard.value += 1
        assert [mutex.peek() for mutex in mutexes] == [expected + 1] * COUNT
        wait_until(lambda: sweep.dead_private_pools() is None or not shm.listing(name), "its journal is removed")


@pytest.mark.parametrize("form", ["lock_when", "wait_for", "changes", "wait_for_async"])
def test_who_waits_for_what_the_dead_had_decided(cls: Any, form: str) -> None:
    """Nobody else locks the mutex, so the commit is finished by those who wait for it."""
    mutexes = [cls(0) for _ in range(COUNT)]
    with Worker(_waits, mutexes[-1], form) as waiter, die_after(mutexes, COUNT + 2) as child:
        waiter.hear()
        wait_until(lambda: not _alive(child), "the holder is dead")
        assert waiter.hear() == NEW
    assert [mutex.lock().value for mutex in mutexes] == [NEW] * COUNT


def _alive(child: Child) -> bool:
    return os.path.exists(f"/proc/{child.pid}")


def _waits(line: Line, mutex: Any, form: str) -> None:
    line.say()
    if form == "lock_when":
        with mutex.lock_when(lambda value: value == NEW, timeout=30) as guard:
            line.say(guard.value)
    elif form == "wait_for":
        line.say(mutex.wait_for(lambda value: value == NEW, timeout=30))
    elif form == "wait_for_async":
        line.say(asyncio.run(mutex.wait_for_async(lambda value: value == NEW, timeout=30)))
    else:
        line.say(next(value for value in mutex.changes(timeout=30) if value == NEW))


def test_the_journal_of_a_dead_process_stays_as_long_as_it_is_needed(cls: Any) -> None:
    mutexes = [cls(0) for _ in range(COUNT)]
    with die_after(mutexes, COUNT + 2) as child:
        left = shm.listing(f"{user_prefix()}@{child.pid}.")
        assert len(left) == 1
        for mutex in mutexes:
            journal_files._next_search.clear()
            assert journal_files.sweep() == []
            with mutex.lock() as guard:
                assert guard.value == NEW
        journal_files._next_search.clear()
        assert journal_files.sweep() == left


def test_an_undecided_journal_of_a_dead_process_is_removed_at_once(cls: Any) -> None:
    mutexes = [cls(0) for _ in range(COUNT)]
    with die_after(mutexes, COUNT) as child:
        left = shm.listing(f"{user_prefix()}@{child.pid}.")
        assert len(left) == 1
        assert journal_files.sweep() == left
        with lock_all(*mutexes) as guards:
            assert [guard.value for guard in guards] == [OLD] * COUNT


def test_who_cannot_read_the_journal_leaves_it_to_others(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mutexes = [cls(0) for _ in range(COUNT)]
    read = journal_files.decided

    def no_descriptor(*_: Any) -> bool:
        raise PagedPoolAllocFailed("no descriptor is free")

    with die_after(mutexes, COUNT + 2):
        monkeypatch.setattr(journal_files, "decided", no_descriptor)
        for _ in range(2):
            for mutex in mutexes:
                with pytest.raises((PagedPoolAllocFailed, LockTimeout)):
                    mutex.lock(timeout=0)
                with pytest.raises(PagedPoolAllocFailed):
                    mutex.lock()
                assert mutex.owner is None
        monkeypatch.setattr(journal_files, "decided", read)
        with lock_all(*mutexes, timeout=30) as guards:
            assert [guard.value for guard in guards] == [NEW] * COUNT
        with lock_all(*mutexes, timeout=30) as guards:
            assert [guard.value for guard in guards] == [NEW] * COUNT


@pytest.mark.usefixtures("grt")
def test_a_noted_mutex_that_is_destroyed() -> None:
    named = [Grt.register_fast_mutex(f"n{number}", 0) for number in range(COUNT)]
    with die_after(named, COUNT + 2):
        Grt.unregister("n0")
        again = Grt.register_fast_mutex("n0", 7)
        with lock_all(again, named[1], named[2]) as guards:
            assert [guard.value for guard in guards] == [7, NEW, NEW]


# --- the real thing ---


def _transfers(line: Line, accounts: list[Any], seed: int) -> None:
    chance = random.Random(seed)
    line.say()
    while True:
        picked = chance.sample(accounts, chance.randint(2, len(accounts)))
        with lock_all(*picked) as guards:
            for guard in guards[1:]:
                amount = chance.randint(-5, 5)
                guards[0].value -= amount
                guard.value += amount


def test_money_is_neither_made_nor_lost(cls: Any) -> None:
    """Processes that move money are killed at any instant; the sum, read under all of the locks, stays what it was."""
    chance = random.Random(3)
    accounts = [cls(100) for _ in range(4)]
    children = [Child(_transfers, accounts, seed) for seed in range(2)]
    try:
        for child in children:
            child.hear()
        for seed in range(25):
            victim = chance.randrange(len(children))
            wait_until(lambda: _moves(accounts), "somebody works")
            with children[victim] as child:
                child.kill()
            children[victim] = Child(_transfers, accounts, 100 + seed)
            children[victim].hear()
            with lock_all(*accounts, timeout=30) as guards:
                assert sum(guard.value for guard in guards) == 400
    finally:
        for child in children:
            child.__exit__(None, None, None)
    with lock_all(*accounts, timeout=30) as guards:
        assert sum(guard.value for guard in guards) == 400


def _moves(accounts: list[Any]) -> bool:
    before = [word(account, COMMIT_AT) for account in accounts]
    return [word(account, COMMIT_AT) for account in accounts] != before


# --- the journal itself ---


def _journals(pid: int) -> list[str]:
    return [name for name in shm.listing(f"{user_prefix()}@{pid}.") if name.endswith(".j")]


def _life(line: Line, mutexes: list[Any]) -> None:
    seen = [len(_journals(os.getpid()))]
    with lock_all(*mutexes):
        pass
    with lock_all(*mutexes) as guards:
        guards[0].value += 1
    seen.append(len(_journals(os.getpid())))
    for _ in range(2):
        with lock_all(*mutexes) as guards:
            for guard in guards:
                guard.value += 1
        seen.append(len(_journals(os.getpid())))
    line.say(seen)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_has_one_from_the_first_need_to_its_end(cls: Any, method: str) -> None:
    mutexes = [cls(0) for _ in range(COUNT)]
    with Child(_life, mutexes, method=method) as child:
        assert child.hear() == [0, 0, 1, 1]
        assert child.end() == 0
        assert _journals(child.pid) == []


def test_a_forked_child_makes_its_own(cls: Any) -> None:
    mutexes = [cls(0) for _ in range(COUNT)]
    for _ in range(2):
        with lock_all(*mutexes) as guards:
            for guard in guards:
                guard.value += 1
        assert len(_journals(os.getpid())) == 1
        with Child(_life, mutexes) as child:
            assert child.hear() == [0, 0, 1, 1]
            assert child.end() == 0
    assert len(_journals(os.getpid())) == 1


_ENDS_IN_A_PUBLICATION = """
import atexit, os, threading
from wdkmutex_shm import KMutex, lock_all
from wdkmutex_shm.memory import data_segments, shm

published, stays, ending = threading.Event(), threading.Event(), threading.Event()
atexit.register(lambda: (ending.set(), published.wait(60)))  # runs after the journal is taken away
a, b = KMutex(b"", type=bytes), KMutex(b"", type=bytes)
real = data_segments.make

def make(*args):
    data_segments.make = real
    stays.set()
    ending.wait(60)
    return real(*args)

def work():
    with lock_all(a, b) as guards:
        guards[0].value, guards[1].value = b"1" * 5000, b"2"
        data_segments.make = make
    print(len(a.peek()), len(b.peek()), flush=True)
    published.set()

threading.Thread(target=work, daemon=True).start()
stays.wait(60)
"""


def test_a_publication_while_the_interpreter_ends() -> None:
    """A daemon thread is in one when the journal is taken away."""
    code = [sys.executable, "-c", _ENDS_IN_A_PUBLICATION]
    done = subprocess.run(code, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "5000 1\n", "")
    sweep.dead_private_pools()


def test_no_room_for_the_journal(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mutexes = [cls(0) for _ in range(COUNT)]
    _core.forget_journal()

    def refuse(*_: Any) -> Any:
        raise PagedPoolAllocFailed("no room")

    monkeypatch.setattr(journal_files, "make", refuse)
    with pytest.raises(PagedPoolAllocFailed), lock_all(*mutexes) as guards:
        for guard in guards:
            guard.value += 1
    assert [mutex.peek() for mutex in mutexes] == [0] * COUNT
    with lock_all(*mutexes) as guards:
        guards[1].value = 5  # one alone needs none
    monkeypatch.undo()
    with lock_all(*mutexes) as guards:
        for guard in guards:
            guard.value += 1
    assert [mutex.peek() for mutex in mutexes] == [1, 6, 1]


def test_the_names_of_journals() -> None:
    note = layout.NOTE | 4194303 << layout.NOTE_PID | 2**40 - 1
    for bit in (0, 1):
        name = journal_files.name_of(note | bit << layout.NOTE_COMMIT, "/wdkm.0.", 0xEFFFFFFC)
        assert name == f"/wdkm.0.@4194303.{2**40 - 1}.effffffc.j"
    assert journal_files.user_of("/wdkm.1000.@1.2.3") == "/wdkm.1000."
    assert journal_files.user_of("/wdkm.1000.default") == "/wdkm.1000."


def _publish(line: Line, mutexes: list[Any]) -> None:
    for _ in range(300):
        with lock_all(*mutexes) as guards:
            for guard in guards:
                guard.value += 1
    line.say()
    line.hear()
    for other in [KMutex(1), KMutex(2)], mutexes:
        with lock_all(*other) as guards:
            for guard in guards:
                guard.value += 1
    line.say()
    line.hear()
    for _ in range(300):
        with lock_all(*mutexes) as guards:
            for guard in guards:
                guard.value += 1
    line.say()
    line.hear()


def test_a_journal_that_was_removed_is_made_anew() -> None:
    """By a cleaner, say: without it what a killed process was publishing would be published in part."""
    mutexes: list[Any] = [KMutex(0), KMutex(0)]
    with Child(_publish, mutexes) as child:
        for _ in range(3):
            child.hear()
            name = journal_of(child.pid)
            assert shm.unlink(name), "in another pool at once, in the same one after a while"
            child.say()
    assert [mutex.peek() for mutex in mutexes] == [601, 601]
