"""Waiting costs next to nothing, and whoever waits is woken by a lock, the end of it, a deadline, a signal, a death."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import Fork, wait_until

from wdkmutex_shm import CriticalSection, FastMutex, KMutex, LockTimeout, MutexDestroyed

SOON = 0.7
"""Seconds: a second is what a sleeper may sleep without a look for itself."""


class Crowd:
    """Threads that each do the same, and have waited for so long that they only sleep."""

    def __init__(self, count: int, work: Callable[[], Any]) -> None:
        self.ended: list[Any] = []
        self._work = work
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()
        time.sleep(0.35)

    def _run(self) -> None:
        try:
            self.ended.append(self._work())
        except Exception as error:
            self.ended.append(error)

    def join(self, seconds: float = 30.0) -> bool:
        """Whether all have ended in time."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)


def _take(mutex: Any) -> None:
    with mutex.lock():
        pass


def _switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


@pytest.mark.slow
def test_who_waits_sleeps() -> None:
    mutex = KMutex(0)
    with mutex.lock():
        crowd = Crowd(100, lambda: _take(mutex))
        before = _switches()
        time.sleep(1.0)
        woken = _switches() - before
    assert crowd.join()
    # ten times a second each would be a thousand
    assert woken < 500


@pytest.mark.slow
@pytest.mark.parametrize("kind", [KMutex, FastMutex])
def test_the_end_of_a_mutex_wakes_who_sleeps_for_its_lock(kind: Any) -> None:
    mutex = kind(1)
    guard = mutex.lock()
    crowd = Crowd(20, lambda: _take(mutex))
    assert mutex._vacate()
    assert crowd.join(SOON), "they sleep on"
    assert [type(error) for error in crowd.ended] == [MutexDestroyed] * 20
    guard.drop_safe()


@pytest.mark.slow
def test_a_deadline_is_kept_by_who_sleeps() -> None:
    mutex = KMutex(0)
    with mutex.lock():

        def wait() -> float:
            started = time.monotonic()
            with pytest.raises(LockTimeout):
                mutex.lock(0.5)
            return time.monotonic() - started

        crowd = Crowd(10, wait)
        assert crowd.join()
    assert all(0.5 <= waited < 0.5 + SOON for waited in crowd.ended)


class Rung(Exception):
    """What the handler raises."""


@pytest.fixture
def bell() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Rung

    before = signal.signal(signal.SIGUSR1, ring)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.slow
@pytest.mark.parametrize("among_others", [False, True])
def test_a_signal_ends_the_sleep(bell: None, among_others: bool) -> None:
    """Sent to the process that waits alone, or to another thread than the one that waits and runs the handlers."""
    mutex = KMutex(0)
    guard = mutex.lock()

    def wait() -> float:
        sent: list[float] = []
        told = threading.Event()

        def send_to_myself() -> None:
            told.wait(1.0)
            sent.append(time.monotonic())
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

        if among_others:
            threading.Thread(target=send_to_myself, daemon=True).start()
        try:
            mutex.lock(20.0)
        except Rung:
            return time.monotonic() - sent[0] if sent else 0.0
        return 99.0

    with Fork(wait) as child:
        if not among_others:
            wait_until(lambda: any(waiter.pid == child.pid for waiter in mutex.waiters()), "it waits")
            time.sleep(0.5)
            started = time.monotonic()
            os.kill(child.pid, signal.SIGUSR1)
            assert child.result() < SOON
            assert time.monotonic() - started < SOON
        else:
            assert child.result() < SOON
    guard.drop_safe()


@pytest.mark.slow
def test_a_death_wakes_who_sleeps() -> None:
    mutex = CriticalSection()
    read, write = os.pipe()

    def hold() -> None:
        mutex.enter()
        os.write(write, b".")
        time.sleep(60)

    with Fork(hold) as holder:
        os.read(read, 1)
        crowd = Crowd(5, lambda: mutex.enter() or mutex.abandoned or mutex.leave())
        started = time.monotonic()
        holder.kill()
        wait_until(lambda: crowd.ended, "the first has it")
        assert time.monotonic() - started < SOON
    os.close(read)
    os.close(write)


@pytest.mark.slow
def test_the_kill_of_waiters_leaves_no_sleeper() -> None:
    """Waiters are killed as they are woken; whoever lives has the lock soon, one after the other."""
    mutex = KMutex(0)

    def work() -> int:
        for _ in range(200):
            with mutex.lock() as guard:
                guard.value += 1
        return 200

    for _ in range(5):
        killed = [Fork(work) for _ in range(4)]
        with Fork(work) as survivor:
            for number, child in enumerate(killed):
                time.sleep(0.002 * number)
                child.kill()
            assert survivor.result() == 200


@pytest.mark.slow
def test_a_timeout_counts_the_waiters_of_all_processes() -> None:
    """Without an object for each of a thousand, which made it 20 ms late; the dead do not count."""
    mutex = FastMutex(0)
    guard = mutex.lock()
    crowd = Crowd(30, lambda: _take(mutex))
    with Fork(lambda: mutex.lock(60.0)), Fork(lambda: mutex.lock(60.0)) as killed:
        wait_until(lambda: len(mutex.waiters()) == 32, "all are seen")
        killed.kill()

        def give_up() -> LockTimeout:
            with pytest.raises(LockTimeout) as caught:
                mutex.lock(0.05)
            return caught.value

        other = Crowd(1, give_up)
        assert other.join()
        assert [error.waiters for error in other.ended] == [31]
    guard.drop_safe()
    assert crowd.join()
