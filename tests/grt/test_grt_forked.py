"""The Grt in forked and spawned children."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import Any

import pytest
from support import (
    DEADLINE,
    SPAWN,
    Fork,
    spawned,
    wait_until,
)

from wdkmutex_shm import Grt
from wdkmutex_shm.errors import (
    GrtAlreadyExists,
    GrtIsNull,
)
from wdkmutex_shm.grt import session


def test_a_forked_child_has_its_own_connection(grt: str) -> None:
    Grt.register_fast_mutex("n", 1)
    parent = session.current()

    def work() -> tuple[list[str], int, int]:
        return Grt.names(), session.current().call("status")["clients"], session.current()._session

    with Fork(work) as child:
        names, clients, number = child.result()
    assert names == ["n"]
    assert clients == 2
    assert number != parent._session
    assert parent.call("status")["names"] == 1


def test_a_child_forked_during_a_call(grt: str) -> None:
    """The lock of the connection is held by a thread that the child does not have."""
    client = session.current()
    taken, done = threading.Event(), threading.Event()

    def call() -> None:
        turn = client._turns.take(DEADLINE)
        taken.set()
        assert turn is not None and done.wait(DEADLINE)
        turn.end()

    other = threading.Thread(target=call)
    other.start()
    assert taken.wait(DEADLINE)
    try:
        with Fork(Grt.names) as child:
            assert child.result() == []
    finally:
        done.set()
        other.join()
    assert Grt.names() == []


def test_a_forked_child_may_init(grt: str) -> None:
    def again() -> str | None:
        Grt.init(grt)
        with pytest.raises(GrtAlreadyExists):
            Grt.init(grt)
        return Grt.instance()

    with Fork(again) as child:
        assert child.result() == grt
    assert Grt.names() == []


def test_a_forked_child_that_dies_leaves_the_parents_connection(grt: str) -> None:
    def die() -> None:
        Grt.names()
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(3):
        with Fork(die) as child:
            child.end()
        assert Grt.names() == []
    wait_until(lambda: session.current().call("status")["clients"] == 1)


def _spawned_child(instance: str, results: Any) -> None:
    with contextlib.suppress(GrtIsNull):
        results.put(Grt.get_fast_mutex("n"))
    Grt.init(instance)
    results.put(Grt.get_fast_mutex("n", int).fetch_add(1))


def test_a_spawned_child_starts_without_a_grt(grt: str) -> None:
    mutex = Grt.register_fast_mutex("n", 1)
    results = SPAWN.SimpleQueue()
    with spawned(_spawned_child, grt, results) as process:
        process.join(DEADLINE)
        assert process.exitcode == 0
        assert results.get() == 1
    results.close()
    assert mutex.peek() == 2
