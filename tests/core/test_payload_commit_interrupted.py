"""Signal handlers that release, commit, or change what is just being committed, at any point of it."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from multi import free
from processes import Child, Line

from wdkmutex_shm import KMutex, MutexBusy, lock_all
from wdkmutex_shm.core import _core
from wdkmutex_shm.memory import data_segments

OLD = [b"o" * 40, b"p" * 50]  # so that the memory of what is set is made anew each time
SET = [b"a" * 100_000, b"b" * 200]
LATER = b"l" * 300
OTHERS = b"x" * 400


@contextlib.contextmanager
def interrupted_at(step: int, work: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Have a signal come at the step-th line of Python code that runs in here, and its handler do something.

    Gives a function that tells whether it came.
    """
    passed = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal passed
        if frame.f_code.co_filename.endswith(("data_segments.py", "journal_files.py", "shm.py")) and event == "line":
            passed += 1
            if passed == step:
                signal.raise_signal(signal.SIGUSR1)
        return trace

    before = signal.signal(signal.SIGUSR1, lambda *_: work())
    traced = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lambda: passed >= step
    finally:
        sys.settrace(traced)
        signal.signal(signal.SIGUSR1, before)


def _replaces(line: Line, mutexes: list[Any]) -> None:
    """Another process, which takes every lock that it is told to, and sets its T."""
    line.say()
    while (which := line.hear()) is not None:
        mutexes[which].replace(OTHERS, timeout=30)
        line.say()


def _releases(guard: Any) -> None:
    guard.drop_safe()


def _leaves(guard: Any) -> None:
    guard.__exit__(None, None, None)


def _leaves_by_an_error(guard: Any) -> None:
    guard.__exit__(ValueError, None, None)


def _waits(guard: Any) -> None:
    guard.wait_for(lambda _: True, timeout=0)


def _commits(guard: Any) -> None:
    guard.value = LATER
    guard.commit()


def _sets(guard: Any) -> None:
    guard.value = LATER


def _rolls_back(guard: Any) -> None:
    guard.rollback()


ENDS = [_releases, _leaves, _leaves_by_an_error]
KEEPS = [_waits, _commits, _sets, _rolls_back]


@pytest.mark.parametrize("last", [False, True], ids=["commit", "leaving"])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("way", ENDS + KEEPS)
def test_several(cls: Any, way: Any, which: int, last: bool) -> None:
    """All are published as they were set, but for what the handler could do before; nobody writes without the lock."""
    mutexes = [cls(OLD[at], type=bytes) for at in range(2)]
    seen = set()
    done: list[str] = []
    step = 0
    with Child(_replaces, mutexes) as child:
        child.hear()
        came = True
        while came:
            step += 1
            for at in range(2):
                mutexes[at].replace(OLD[at])
            _core.forget_journal()
            done.clear()
            group = lock_all(*mutexes, timeout=30)
            with group as guards:
                guards[0].value, guards[1].value = SET

                def handle() -> None:
                    try:
                        way(guards[which])
                    except MutexBusy:
                        done.append("busy")
                        return
                    done.append("done")
                    if guards[which].released:
                        child.say(which)
                        child.hear()

                if last:
                    with interrupted_at(step, handle) as has_come:
                        group.__exit__(None, None, None)
                else:
                    with interrupted_at(step, handle) as has_come:
                        if way in ENDS:
                            with contextlib.suppress(Exception):
                                group.commit()  # refuses to tell of the guard that is released
                        else:
                            group.commit()
                    assert [mutex.peek() for mutex in mutexes][1 - which] == SET[1 - which]
                came = has_come()
            seen.update(done)
            assert len(done) == came
            found = [mutex.peek() for mutex in mutexes]
            assert found[1 - which] == SET[1 - which]
            expected = {SET[which]}
            if done and way in (_commits, _sets):
                expected = {LATER}  # what is set is committed in the end, as it always is
            elif done == ["done"] and way in ENDS:
                expected = {OTHERS}
            elif done == ["done"] and way is _rolls_back:
                expected = {SET[which], OLD[which]}
            assert found[which] in expected, (step, done)
            assert free(*mutexes)
        child.say(None)
    assert step > 20
    assert seen == ({"busy", "done"} if way not in (_sets, _rolls_back) else {"done"})


@pytest.mark.parametrize("way", ENDS + KEEPS)
def test_one(cls: Any, way: Any) -> None:
    mutex = cls(OLD[0], type=bytes)
    done: list[str] = []
    step = 0
    with Child(_replaces, [mutex]) as child:
        child.hear()
        came = True
        while came:
            step += 1
            mutex.replace(OLD[0])
            done.clear()
            with mutex.lock(timeout=30) as guard:
                guard.value = SET[0]

                def handle() -> None:
                    try:
                        way(guard)
                    except MutexBusy:
                        done.append("busy")
                        return
                    done.append("done")
                    assert not guard.released

                with interrupted_at(step, handle) as has_come:
                    guard.commit()
                assert mutex.peek() == SET[0] or (way is _commits and done == ["done"] and mutex.peek() == LATER)
                came = has_come()
            assert len(done) == came
            if way in ENDS:
                assert done in (["busy"], [])
            assert mutex.peek() == (LATER if done and way in (_sets, _commits) else SET[0])
            child.say(0)
            child.hear()
            assert mutex.peek() == OTHERS
        child.say(None)
    assert step > 10


def test_a_commit_that_fails_after_the_handler_rolled_back(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was rolled back is not taken for set again, and what the handler set is."""
    for way, expected in ((_rolls_back, OLD), (_sets, [LATER, OLD[1]])):
        mutexes = [cls(OLD[at], type=bytes) for at in range(2)]

        def no_room(*_: Any, way: Any = way) -> Any:
            way(guards[0])
            raise OSError(28, "No space left on device")

        group = lock_all(*mutexes)
        with group as guards:
            guards[0].value = SET[0] * 2
            with monkeypatch.context() as patch:
                patch.setattr(data_segments, "make", no_room)
                with pytest.raises(OSError, match="No space"):
                    guards[0].commit()
                guards[0].value = SET[0] * 2
                guards[1].value = SET[0]
                with pytest.raises(OSError, match="No space"):
                    group.commit()
            guards[1].rollback()
        assert [mutex.peek() for mutex in mutexes] == expected


@pytest.mark.parametrize("together", [False, True])
def test_a_commit_that_fails_after_the_handler_rolled_back_an_inner_lock(
    together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That takes back what the inner lock did, and not what is being committed: it stays set."""
    mutexes = [KMutex(OLD[at], type=bytes) for at in range(2)]

    def no_room(*_: Any) -> Any:
        inner = mutexes[0].lock()
        inner.value = LATER
        inner.rollback()
        inner.drop_safe()
        raise OSError(28, "No space left on device")

    group = lock_all(*mutexes)
    with group as guards:
        guards[0].value, guards[1].value = SET
        with monkeypatch.context() as patch:
            patch.setattr(data_segments, "make", no_room)
            with pytest.raises(OSError, match="No space"):
                (group if together else guards[0]).commit()
        assert guards[0].value == SET[0]
    assert [mutex.peek() for mutex in mutexes] == SET


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_the_last_guard_of_a_hold_is_dropped_in_the_midst(
    together: bool, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is left to release the lock, so the commit does, when it is over."""
    mutexes = [KMutex(OLD[at], type=bytes) for at in range(2)]
    make = data_segments.make

    def drops(*args: Any) -> Any:
        if inner:
            guards[0].drop_safe()
            inner.clear()
        if fails:
            raise OSError(28, "No space left on device")
        return make(*args)

    group = lock_all(*mutexes)
    with group as guards:
        inner = [mutexes[0].lock()]
        guards[0].value, guards[1].value = SET
        with monkeypatch.context() as patch:
            patch.setattr(data_segments, "make", drops)
            with pytest.raises(OSError, match="No space") if fails else contextlib.nullcontext():
                (group if together else guards[0]).commit()
        assert free(mutexes[0])
        assert guards[0].released
        assert not guards[1].released
    assert [mutex.peek() for mutex in mutexes] == [OLD[0] if fails else SET[0], SET[1]]
    assert free(*mutexes)


def test_what_is_set_in_the_commit_of_a_wait(cls: Any) -> None:
    """It is committed before the lock is released for the wait, at whatever point of the commit it was set."""
    mutex = cls(OLD[0], type=bytes)
    done: list[str] = []
    step = 0
    came = True
    while came:
        step += 1
        mutex.replace(OLD[0])
        done.clear()
        with mutex.lock() as guard:
            guard.value = SET[0]

            def handle() -> None:
                guard.value = LATER
                done.append("done")

            with interrupted_at(step, handle) as has_come:
                guard.wait_for(lambda value: value == (LATER if done else SET[0]), timeout=30)
            came = has_come()
        assert len(done) == came
        assert mutex.peek() == (LATER if done else SET[0])
    assert step > 10


def test_an_int_is_not_committed_in_the_midst(cls: Any) -> None:
    """That takes the fast path, which must not slip through."""
    number, large = cls(1), cls(OLD[0], type=bytes)
    seen = []
    step = 0
    came = True
    while came:
        step += 1
        number.replace(1)
        large.replace(OLD[0])
        _core.forget_journal()
        group = lock_all(number, large)
        with group as guards:
            guards[0].value, guards[1].value = 2, SET[0]

            def handle() -> None:
                guards[0].value = 3
                try:
                    guards[0].commit()
                except MutexBusy:
                    seen.append("busy")
                else:
                    seen.append("done")
                    assert number.peek() == 3

            with interrupted_at(step, handle) as has_come:
                group.commit()
            came = has_come()
            assert number.peek() == (3 if came and seen[-1] == "done" else 2)
        assert number.peek() == (3 if came else 2)
    assert set(seen) == {"busy", "done"}
