"""Handles: what they mean once their mutex is gone, over pickle and fork, and when their memory is given back."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from typing import Any

import pytest
from kinds import acquire, attempt, destroy, is_to_be_had, make, take
from processes import Child, Line, held_by_child, in_child, in_thread, wait_for_waiter
from support import wait_until

from wdkmutex_shm import Grt, MutexDestroyed, NotOwned
from wdkmutex_shm.pool import private


def test_destroyed_while_held_and_waited_for(mutex: Any, kind: str) -> None:
    hold = acquire(mutex)
    with Child(_wait_for_the_end, mutex) as child:
        wait_for_waiter(mutex)
        destroy(mutex)
        assert child.hear() == "MutexDestroyed"
    assert mutex.destroyed
    assert "destroyed" in repr(mutex)
    with pytest.raises(MutexDestroyed):
        acquire(mutex)
    with pytest.raises(MutexDestroyed):
        attempt(mutex)
    with pytest.raises(MutexDestroyed):
        mutex.owner
    with pytest.raises(MutexDestroyed):
        mutex.statistics()
    with pytest.raises(MutexDestroyed):
        mutex.name
    hold.release()
    with pytest.raises(MutexDestroyed):
        acquire(mutex)


def _wait_for_the_end(line: Line, mutex: Any) -> None:
    try:
        acquire(mutex)
    except MutexDestroyed as error:
        line.say(type(error).__name__)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_pickled_to_a_child(mutex: Any, method: str) -> None:
    with held_by_child(mutex, method) as child:
        assert mutex.owner.pid == child.pid
        assert not is_to_be_had(mutex)
        child.kill()
        assert take(mutex) == (True, child.pid)


def test_pickle_finds_its_function_without_running_python(mutex: Any) -> None:
    # Whatever is raised while pickle looks a function up, Ctrl-C included, would be told as a PicklingError.
    code = "import wdkmutex_shm; print(vars(wdkmutex_shm)['_rebuild'].__qualname__)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    function = mutex.__reduce__()[0]
    assert (function.__module__, function.__qualname__) == ("wdkmutex_shm", found)


def test_pickle_gives_an_equal_handle(mutex: Any) -> None:
    copy = pickle.loads(pickle.dumps(mutex))
    assert copy == mutex
    assert hash(copy) == hash(mutex)
    assert type(copy) is type(mutex)
    with acquire(mutex):
        assert in_thread(is_to_be_had, copy) is False


def test_forked_child_owns_nothing(mutex: Any) -> None:
    hold = acquire(mutex)
    assert in_child(_use_inherited, hold, mutex) == ("NotOwned", False)
    assert mutex.owner.pid == os.getpid()
    hold.release()
    assert in_child(take, mutex) == (False, None)


def _use_inherited(hold: Any, mutex: Any) -> tuple[str, bool]:
    try:
        hold.release()
    except NotOwned as error:
        return type(error).__name__, is_to_be_had(mutex)
    return "nothing", is_to_be_had(mutex)


def test_handle_that_another_process_destroyed(mutex: Any) -> None:
    in_child(_destroy_and_leave, mutex)
    wait_until(lambda: mutex.destroyed)
    with pytest.raises(MutexDestroyed):
        acquire(mutex)


def _destroy_and_leave(mutex: Any) -> None:
    destroy(mutex)


@pytest.mark.parametrize("name", ["KMutex", "FastMutex", "CriticalSection"])
def test_unbound_handle_is_refused(name: str) -> None:
    # A handle that no constructor ever saw must raise, not crash; in a process of its own because it might.
    code = f"""
import wdkmutex_shm
handle = wdkmutex_shm.{name}.__new__(wdkmutex_shm.{name})
repr(handle)
for use in (
    "handle.lock()", "handle.try_lock()", "handle.peek()", "handle.fetch_add()", "handle.replace(1)", "handle.enter()",
    "handle.try_enter()", "handle.leave()", "handle.locked()", "handle.owner", "handle.name", "handle.statistics()",
    "handle.destroyed", "handle.to_owned()", "handle.segment", "handle.__reduce__()", "hash(handle)",
    "handle == handle",
):
    try:
        eval(use)
    except Exception:
        pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done


def test_initialised_once(kind: str) -> None:
    mutex = make(kind)
    with pytest.raises((TypeError, RuntimeError)):
        mutex.__init__(*([] if kind == "section" else [1]))
    assert is_to_be_had(mutex)


def test_freed_slots_are_used_again(kind: str) -> None:
    before = len(private.the_pool().segments)
    for _ in range(500):
        make(kind)
    assert len(private.the_pool().segments) == before


def test_freed_with_a_cycle(kind: str) -> None:
    pool = private.the_pool()
    used = pool.stats().used
    knot: list[Any] = [make(kind)]
    knot.append(knot)
    assert pool.stats().used == used + 1
    del knot
    gc.collect()
    assert pool.stats().used == used


def test_get_from_another_process(kind: str, grt: str) -> None:
    held = make(kind, "shared")
    with held_by_child(held) as child:
        getter: Any = {"fast": Grt.get_fast_mutex, "k": Grt.get_kmutex, "section": Grt.get_critical_section}[kind]
        found = getter("shared")
        assert found == held
        assert found.owner is not None
        assert found.owner.pid == child.pid
        child.kill()
        assert take(found) == (True, child.pid)
