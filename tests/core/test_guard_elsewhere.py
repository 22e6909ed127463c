"""A guard where it does not belong: in other threads, in forked children, in signal handlers, at the very end."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
from processes import in_child, in_thread

from wdkmutex_shm import KMutex, NotOwned


def free(mutex: Any) -> bool:
    """Whether another thread can have the lock now."""

    def work() -> bool:
        guard = mutex.try_lock()
        return guard is not None

    return bool(in_thread(work))


def test_guard_in_another_thread(cls: Any) -> None:
    mutex = cls(1)
    with mutex.lock() as guard:

        def misuse() -> int:
            refused = 0
            for use in (lambda: guard.value, guard.commit, guard.drop_safe, guard.__enter__, lambda: str(guard)):
                try:
                    use()
                except NotOwned as error:
                    refused += "another thread" in str(error)
            try:
                guard.__exit__(None, None, None)
            except NotOwned:
                refused += 1
            return refused

        assert in_thread(misuse) == 6
        guard.value = 2
    assert mutex.peek() == 2


def test_guard_dropped_in_another_thread_is_released_by_its_own(cls: Any) -> None:
    mutex = cls(1)
    box = [mutex.lock()]
    box[0].value = 7
    in_thread(box.clear)
    # Whatever its own thread does next with a lock commits and releases what was left to it.
    with mutex.lock(1) as guard:
        assert guard.value == 7
        assert guard.abandoned is False
    assert free(mutex)


def test_guard_of_a_dead_thread_cannot_write(cls: Any) -> None:
    mutex = cls(1)
    box: list[Any] = []

    def lock_set_and_end() -> None:
        box.append(mutex.lock())
        box[0].value = 99

    in_thread(lock_set_and_end)
    with mutex.lock(5) as guard:
        assert guard.abandoned
        box.clear()
        assert mutex.peek() == 1
        assert guard.value == 1
    assert mutex.statistics().commits == 0


def test_guard_of_a_dead_thread_dropped_before_anyone_took_over(cls: Any) -> None:
    mutex = cls(1)
    box: list[Any] = []

    def lock_set_and_end() -> None:
        box.append(mutex.lock())
        box[0].value = 99

    in_thread(lock_set_and_end)
    box.clear()
    with mutex.lock(5) as guard:
        assert guard.abandoned
        assert guard.value == 1


def test_guard_in_a_forked_child(cls: Any) -> None:
    mutex = cls([1])
    guard = mutex.lock()
    guard.value.append(2)

    def misuse() -> list[str]:
        told = []
        for use in (lambda: guard.value, guard.commit, guard.rollback, guard.drop_safe, guard.__enter__):
            try:
                use()
            except NotOwned as error:
                told.append("fork" in str(error))
        return [*map(str, told), repr(guard)]

    *told, text = in_child(misuse)
    assert told == ["True"] * 5
    assert "inherited" in text
    assert mutex.peek() == [1]
    assert mutex.owner.pid == os.getpid()
    guard.drop_safe()
    assert mutex.peek() == [1, 2]


def _drop_all(box: list[Any]) -> bool:
    box.clear()
    gc.collect()
    return True


def test_guard_dropped_in_a_forked_child(cls: Any) -> None:
    mutex = cls(1)
    box = [mutex.lock()]
    box[0].value = 3
    assert in_child(_drop_all, box)
    assert mutex.peek() == 1
    assert not free(mutex)
    box.clear()
    assert mutex.peek() == 3


@pytest.mark.parametrize("raising", [False, True])
def test_fork_inside_the_with(cls: Any, raising: bool) -> None:
    mutex = cls(1)
    parent = os.getpid()
    try:
        with mutex.lock() as guard:
            guard.value = 2
            child = os.fork()
            if child == 0 and raising:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    if os.getpid() != parent:
        os._exit(0 if guard.released and not mutex.try_lock() else 1)
    assert mutex.peek() == 2
    # The child found the lock held, or free, as the parent had it; it must not have written.
    assert os.waitpid(child, 0)[0] == child
    assert mutex.statistics().commits == 1


def test_fork_leaves_no_root_behind() -> None:
    first, second = KMutex(1), KMutex(2)

    def work() -> bool:
        box[0].__exit__(None, None, None)
        box.clear()
        held = second.lock()  # may be made where the guard of the first was
        with pytest.raises(TimeoutError):
            first.lock(0)  # the parent holds it
        held.drop_safe()
        return True

    box = [first.lock()]
    assert in_child(work)
    box.clear()


class _Interrupt(Exception):
    pass


@pytest.mark.parametrize("loops", ["", "asyncio", "trio"])
def test_signal_between_lock_and_with(cls: Any, loops: str) -> None:
    # A handler that raises is run between any two bytecodes; the lock must not stay, wherever that is. With an event
    # loop library imported, a lock asks it whether a loop runs, and that is Python code too.
    if loops:
        pytest.importorskip(loops)
    mutex = cls(0)
    armed = threading.Event()

    def handler(*_: object) -> None:
        if armed.is_set():
            raise _Interrupt

    interrupted = 0
    before = signal.signal(signal.SIGALRM, handler)
    try:
        for delay in range(1, 300):
            armed.set()
            try:
                signal.setitimer(signal.ITIMER_REAL, delay * 2e-6)
                while True:
                    with mutex.lock() as guard:
                        guard.value += 1
            except _Interrupt:
                interrupted += 1
            finally:
                armed.clear()
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert mutex.owner is None
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupted == 299
    assert free(mutex)


def test_signal_right_after_lock(cls: Any) -> None:
    mutex = cls(1)

    def handler(*_: object) -> None:
        raise _Interrupt

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(_Interrupt), _lock_and_signal(mutex):
            pass
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert mutex.owner is None


def _lock_and_signal(mutex: Any) -> Any:
    guard = mutex.lock()
    signal.raise_signal(signal.SIGUSR1)
    return guard


@pytest.mark.parametrize("kind", ["KMutex", "FastMutex"])
def test_interpreter_ends_while_a_guard_lives(kind: str) -> None:
    code = f"""
import wdkmutex_shm, sys
mutex = wdkmutex_shm.{kind}([1] * 1000)
guard = mutex.lock()
guard.value.append(2)
cycle = [guard]; cycle.append(cycle)
sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
