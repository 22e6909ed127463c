"""A child that was forked into another pid namespace with the mutexes of its parent: thread ids mean something else
there, and nobody is taken for dead for that."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest
from kinds import KINDS, acquire, attempt, make
from processes import Child, Line
from views import fork_with_anothers_proc, needs_root

from wdkmutex_shm import LockTimeout

WAIT = 1.2
"""Longer than until a waiter looks for the second time."""


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_holder_of_the_namespace_of_old_keeps_its_lock(kind: str) -> None:
    mutex = make(kind)

    def wait(line: Line) -> None:
        fork_with_anothers_proc(line)
        with pytest.raises(LockTimeout):
            acquire(mutex, WAIT)
        line.say(attempt(mutex))

    with acquire(mutex), Child(wait) as child:
        assert child.hear() is None
    with acquire(mutex, 5) as held:
        assert not held.abandoned


@needs_root
@pytest.mark.slow
def test_a_holder_of_the_new_namespace_keeps_its_lock() -> None:
    mutex = make("k")

    def hold(line: Line) -> None:
        def holder() -> None:
            if os.path.exists(f"/proc/{threading.get_native_id()}"):  # of the namespace of old
                return
            with acquire(mutex):
                line.say()
                line.hear()
            held.set()

        fork_with_anothers_proc(line)
        held = threading.Event()
        while not held.is_set():
            thread: Any = threading.Thread(target=holder)
            thread.start()
            thread.join()
        line.say()

    with Child(hold) as child:
        child.hear()
        with pytest.raises(LockTimeout):
            mutex.lock(timeout=WAIT)
        assert mutex.try_lock() is None
        child.say()
        child.hear()
    with mutex.lock(timeout=5) as guard:
        assert not guard.abandoned
