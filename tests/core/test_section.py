"""CriticalSection: what Windows has under that name, and the whole protocol of threading.RLock."""

from __future__ import annotations

import importlib
import logging
import math
import os
import threading
import types
import unittest
from collections.abc import Callable
from typing import Any

import pytest
from processes import Child, Line, held_by_child, in_child, in_thread, wait_for_waiter

from wdkmutex_shm import CriticalSection, KMutex, LockTimeout, NotOwned

try:
    lock_tests: Any = importlib.import_module("test.lock_tests")
except ImportError:  # this Python comes without its own tests
    lock_tests = types.SimpleNamespace(RLockTests=unittest.TestCase, ConditionTests=unittest.TestCase)


@pytest.fixture(params=[CriticalSection, threading.RLock])
def lock(request: pytest.FixtureRequest) -> Any:
    """The section, and as a control the lock whose protocol it has."""
    return request.param()


def _owned_by_another(lock: Any) -> bool:
    def work() -> bool:
        if lock.acquire(False):
            lock.release()
            return False
        return True

    return bool(in_thread(work))


def test_acquire_and_release(lock: Any) -> None:
    assert lock.acquire() is True
    assert lock._is_owned()
    assert _owned_by_another(lock)
    assert lock.release() is None
    assert not lock._is_owned()
    assert not _owned_by_another(lock)


@pytest.mark.parametrize("args", [(), (True,), (False,), (True, -1), (True, 1), (False, -1), (1, 0.5), (0,), (True, 0)])
def test_positional_arguments(lock: Any, args: tuple[Any, ...]) -> None:
    assert lock.acquire(*args) is True
    lock.release()


def test_keyword_arguments(lock: Any) -> None:
    assert lock.acquire(blocking=True, timeout=1) is True
    assert lock.acquire(timeout=-1) is True
    assert lock.acquire(blocking=False) is True
    for _ in range(3):
        lock.release()


def test_arguments_that_make_no_sense(lock: Any) -> None:
    for args in ((False, 1), (False, 0), (True, -2), (True, math.nan)):
        with pytest.raises(ValueError):
            lock.acquire(*args)
    with pytest.raises(TypeError):
        lock.acquire(True, "1")
    assert not lock._is_owned()


def test_no_timeout_may_be_none() -> None:
    section = CriticalSection()
    assert section.acquire(True, None)
    assert section.acquire(timeout=None)
    section.release()
    section.release()


def test_recursion(lock: Any) -> None:
    for _ in range(3):
        lock.acquire()
    with lock as entered:
        assert entered is True
    for _ in range(3):
        assert _owned_by_another(lock)
        lock.release()
    assert not _owned_by_another(lock)
    with pytest.raises(RuntimeError):
        lock.release()


def test_release_by_another_thread(lock: Any) -> None:
    lock.acquire()

    def work() -> str:
        try:
            lock.release()
        except RuntimeError:
            return "refused"
        return "released"

    assert in_thread(work) == "refused"
    lock.release()


def test_timeout_passes(lock: Any) -> None:
    with lock:
        assert in_thread(lock.acquire, True, 0.01) is False
        assert in_thread(lock.acquire, True, 0) is False


def test_save_and_restore(lock: Any) -> None:
    with pytest.raises(RuntimeError):
        lock._release_save()
    lock.acquire()
    lock.acquire()
    saved = lock._release_save()
    assert not _owned_by_another(lock)
    lock._acquire_restore(saved)
    assert _owned_by_another(lock)
    lock.release()
    assert _owned_by_another(lock)
    lock.release()
    assert not _owned_by_another(lock)


def test_exception_leaves_it(lock: Any) -> None:
    with pytest.raises(ZeroDivisionError), lock:
        raise ZeroDivisionError
    assert not _owned_by_another(lock)


def test_condition(lock: Any) -> None:
    condition = threading.Condition(lock)
    items: list[int] = []

    def consume() -> int:
        with condition, condition:
            assert condition.wait_for(lambda: items, timeout=10)
            return items.pop()

    result: list[int] = []
    thread = threading.Thread(target=lambda: result.append(consume()))
    thread.start()
    with condition:
        items.append(7)
        condition.notify()
    thread.join(10)
    assert result == [7]
    with condition:
        assert condition.wait(0.001) is False


def test_condition_refuses_who_is_not_in(lock: Any) -> None:
    condition = threading.Condition(lock)
    with pytest.raises(RuntimeError):
        condition.wait(0)
    with pytest.raises(RuntimeError):
        condition.notify()


def test_recursion_count() -> None:
    section = CriticalSection()
    assert section._recursion_count() == 0
    with section, section:
        assert section._recursion_count() == 2
        assert in_thread(section._recursion_count) == 0
    assert section._recursion_count() == 0


def test_at_fork_reinit() -> None:
    section = CriticalSection()
    section.enter()

    def work() -> tuple[bool, bool, bool]:
        section._at_fork_reinit()
        return section._is_owned(), section.locked(), section.try_enter()

    # In the child it is not ours; the parent still holds it, unlike a lock of the process.
    assert in_child(work) == (False, True, False)
    section.leave()
    assert in_child(section.try_enter)
    with section:
        section._at_fork_reinit()
        assert section._is_owned()
        assert section.locked()


def test_enter_and_leave() -> None:
    section = CriticalSection()
    section.enter()
    assert section.try_enter() is True
    section.leave()
    section.leave()
    with pytest.raises(NotOwned, match="not entered"):
        section.leave()
    with held_by_child(section) as child:
        assert section.try_enter() is False
        assert section.locked()
        with pytest.raises(LockTimeout) as caught:
            section.enter(0.01)
        assert caught.value.owner_pid == child.pid
        assert section.acquire(timeout=0.01) is False


def test_abandoned_section() -> None:
    section = CriticalSection()
    with held_by_child(section) as child:
        child.kill()
    with section:
        assert section.abandoned
        assert section.abandoned_by == child.pid
        with section:
            assert section.abandoned
        assert in_thread(lambda: section.abandoned) is False
    assert not section.abandoned
    assert section.abandoned_by is None
    with section:
        assert not section.abandoned


def test_forked_child_is_not_in_it() -> None:
    section = CriticalSection()
    section.enter()

    def work() -> tuple[bool, bool, str]:
        try:
            section.leave()
        except NotOwned as error:
            return section._is_owned(), section.try_enter(), str(error)
        return True, True, ""

    owned, entered, text = in_child(work)
    assert not owned
    assert not entered
    assert "fork" in text
    section.leave()
    with Child(_enter_deep, section) as child:
        assert child.hear() == 3


def _enter_deep(line: Line, section: CriticalSection) -> None:
    with section, section, section:
        line.say(section._recursion_count())


def test_fork_while_in_it_then_both_go_on() -> None:
    section = CriticalSection()
    section.enter()
    with Child(_enter_deep, section) as child:
        wait_for_waiter(section)
        section.leave()
        assert child.hear() == 3
    section.enter()
    section.leave()
    assert not section.locked()


def test_section_object_may_go_while_it_is_entered() -> None:
    # The lock is then held until the thread ends; nothing may be unmapped under it.
    def work() -> None:
        CriticalSection().enter()
        CriticalSection().enter()

    in_thread(work)
    in_child(work)


def _in_slot(place: tuple[str, int], make: Callable[[], Any]) -> Any:
    """One that lives in that slot; those that are made until it comes round are gone when this returns."""
    others = []
    while (made := make()).segment != place[0] or made.slot_index != place[1]:
        others.append(made)
        assert len(others) < 100_000
    return made


def test_a_slot_that_a_thread_died_in_is_as_new_to_the_next_ones() -> None:
    section = CriticalSection()
    place = section.segment, section.slot_index
    in_thread(section.enter)  # and ends in it
    del section
    mutex = _in_slot(place, lambda: KMutex(0))
    mutex.fetch_add(1)
    with mutex.lock():
        pass
    del mutex
    section = _in_slot(place, CriticalSection)
    assert not section._is_owned()
    with section:
        assert section.owner is not None
        assert in_thread(section.try_enter) is False
    assert section.owner is None


def test_as_the_lock_of_a_logging_handler() -> None:
    class Handler(logging.Handler):
        def createLock(self) -> None:
            self.lock = CriticalSection()  # type: ignore[assignment]

        def emit(self, record: logging.LogRecord) -> None:
            lines.append((record.getMessage(), self.lock.locked()))  # type: ignore[union-attr]

    lines: list[tuple[str, bool]] = []
    handler = Handler()
    handler.handle(logging.LogRecord("n", 20, "p", 1, "text", None, None))
    assert lines == [("text", True)]
    handler.close()


def test_as_the_lock_of_a_counter_of_threads() -> None:
    section = CriticalSection()
    total = [0]

    def work() -> None:
        for _ in range(2000):
            with section:
                before = total[0]
                if before % 500 == 0:
                    os.sched_yield()
                total[0] = before + 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert total == [8000]


class TestAsRLock(lock_tests.RLockTests):  # type: ignore[misc]
    """CPython's own tests of RLock.

    Left out: the texts of repr() (a section tells its name and holder); OverflowError for a timeout beyond TIMEOUT_MAX
    (a section waits without limit then).
    """

    locktype = CriticalSection
    test_repr = test_locked_repr = test_timeout = None


class TestAsLockOfCondition(lock_tests.ConditionTests):  # type: ignore[misc]
    """CPython's own tests of Condition, over a section."""

    @staticmethod
    def condtype(lock: Any = None) -> threading.Condition:
        made: Any = CriticalSection() if lock is None else lock
        return threading.Condition(made)
