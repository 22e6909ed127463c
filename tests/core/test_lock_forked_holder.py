"""A process forks while it holds a lock, and ends: as a server does that makes itself a daemon.

The lock is the dead process's, as it is when it is killed: the next one gets it and is told. What goes on to believe
that it holds the lock can release nobody else's hold.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kinds import make
from mp_peers import hold
from processes import Child, Line, in_child, wait_until
from support import DEADLINE, kill

from wdkmutex_shm import NotOwned

# Children are forked while other threads run, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

KINDS = ("Lock", "RLock", "Semaphore", "BoundedSemaphore")


def _daemonize(line: Line, acquire: Callable[[], Any], release: Callable[[Any], Any]) -> None:
    had = acquire()
    starter = os.getpid()
    if os.fork():
        os._exit(0)
    os.setsid()
    first = os.getpid()
    if os.fork():
        os._exit(0)
    wait_until(lambda: os.getppid() not in (starter, first), "its parents have ended")
    line.say(os.getpid())
    while line.hear() == "release":
        try:
            line.say(release(had))
        except Exception as error:
            line.say(error)
    signal.pause()


@contextmanager
def daemon(acquire: Callable[[], Any], release: Callable[[Any], Any]) -> Iterator[Child]:
    """A daemon whose parent held a lock."""
    with Child(_daemonize, acquire, release) as starter:
        pid = starter.hear()
        try:
            starter.process.join()
            yield starter
        finally:
            kill(pid)


def _try(lock: Any) -> bool:
    return bool(lock.acquire(False))


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_gets_the_lock_and_nobody_releases_it(fork: Any, kind: str) -> None:
    lock = getattr(fork, kind)()
    with daemon(lock.acquire, lambda _: lock.release()) as child:
        assert lock.acquire(timeout=DEADLINE)
        assert getattr(lock, "abandoned", True)
        for _ in range(2):
            child.say("release")
            told = child.hear()
            if kind == "Lock":
                assert isinstance(told, NotOwned)
                assert f"process {os.getpid()} holds it now" in str(told)
            if kind == "RLock":
                assert isinstance(told, AssertionError)
            assert not in_child(_try, lock)
            if "Semaphore" in kind:
                break  # whoever releases one twice says that it is no lock
        if kind != "RLock":
            with Child(hold, lock) as other:  # it is crash-proof still
                lock.release()
                other.hear()
                other.kill()
            assert lock.acquire(timeout=DEADLINE)
        lock.release()
        assert in_child(_try, lock)


def test_it_was_free_since(fork: Any) -> None:
    lock = fork.Lock()
    with daemon(lock.acquire, lambda _: lock.release()) as child:
        with lock:
            pass
        child.say("release")
        told = child.hear()
        assert isinstance(told, NotOwned)
        assert "it is free now" in str(told)
        assert lock.acquire(False)


def test_nobody_has_taken_it_since(fork: Any) -> None:
    """Then the daemon was alone, and what it releases is free."""
    lock = fork.Lock()
    with daemon(lock.acquire, lambda _: lock.release()) as child:
        child.say("release")
        assert child.hear() is None
        assert lock.acquire(False)
        assert not lock.abandoned


def test_the_daemon_acquires_it_itself(fork: Any) -> None:
    lock = fork.Lock()

    def acquire_and_release(_: Any) -> str:
        assert lock.acquire(timeout=DEADLINE)
        lock.release()
        return "released"

    with daemon(lock.acquire, acquire_and_release) as child:
        child.say("release")
        assert child.hear() == "released"
        assert lock.acquire(False)


def test_a_child_may_release_what_its_living_parent_holds(fork: Any) -> None:
    """As in multiprocessing."""
    lock = fork.Lock()
    lock.acquire()
    in_child(lock.release)
    assert lock.acquire(False)
    lock.release()
    with Child(hold, lock) as child:
        child.hear()
        in_child(lock.release)  # anybody may release what anybody living holds
        assert lock.acquire(False)


def test_every_kind_of_the_core(kind: str) -> None:
    """An inherited guard does nothing, and says so where it is asked to release."""
    mutex = make(kind)
    section = kind == "section"

    def acquire() -> Any:
        if section:
            mutex.enter()
            return mutex
        guard = mutex.lock()
        if hasattr(guard, "value"):
            guard.value = 99
        return guard

    def release(had: Any) -> Any:
        return had.leave() if section else had.drop_safe()

    with daemon(acquire, release) as child:
        if section:
            assert mutex.acquire(timeout=DEADLINE)
            assert mutex.abandoned
        else:
            guard = mutex.lock(timeout=DEADLINE)
            assert guard.abandoned
        child.say("release")
        assert isinstance(child.hear(), NotOwned)
        assert mutex.owner.pid == os.getpid()
        if section:
            mutex.leave()
        else:
            assert guard.value != 99
            guard.drop_safe()
        assert mutex.owner is None
