"""The ten cases of wdk-mutex's own tests, over processes instead of threads, and what else the crate has."""

from __future__ import annotations

import errno
import mmap
import os
import pickle
import struct
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from processes import Child, Line, in_child

from wdkmutex_shm import (
    CriticalSection,
    DriverMutexError,
    FastMutex,
    Grt,
    GrtDriverMutexError,
    GrtError,
    IrqlTooHigh,
    KMutex,
    MutexDestroyed,
    MutexType,
    PagedPoolAllocFailed,
    raise_irql,
)

WORKERS = 3
REGISTER: dict[Any, Callable[..., Any]] = {KMutex: Grt.register_kmutex, FastMutex: Grt.register_fast_mutex}
GET: dict[Any, Callable[..., Any]] = {KMutex: Grt.get_kmutex, FastMutex: Grt.get_fast_mutex}


def in_workers(work: Callable[..., None], *args: Any) -> None:
    """Run it in three processes at once."""

    def worker(line: Line) -> None:
        line.hear()
        work(*args)
        line.say()

    with ExitStack() as stack:
        children = [stack.enter_context(Child(worker)) for _ in range(WORKERS)]
        for child in children:
            child.say("go")
        for child in children:
            child.hear()
            assert child.end() == 0


# --- multithread_mutex_global_static, _manual_pool


def add(mutex: Any, times: int) -> None:
    for _ in range(times):
        with mutex.lock() as guard:
            guard.value += 1


def test_a_global_mutex(cls: Any) -> None:
    mutex = cls(0)
    in_workers(add, mutex, 500)
    with mutex.lock() as guard:
        assert guard.value == 1500


def add_at(mutex: Any, memory: mmap.mmap) -> None:
    for _ in range(500):
        with mutex.lock() as guard:
            (value,) = struct.unpack_from("=I", memory, guard.value)
            struct.pack_into("=I", memory, guard.value, value + 1)


def test_memory_of_the_users_own(cls: Any) -> None:
    with mmap.mmap(-1, mmap.PAGESIZE) as memory:  # T is where in it the value is, as the crate's is a pointer
        mutex = cls(64)
        in_workers(add_at, mutex, memory)
        assert struct.unpack_from("=I", memory, 64) == (1500,)


# --- to_owned, to_owned_box


def test_to_owned(cls: Any) -> None:
    mutex = cls(0)
    in_child(add, mutex, 1)
    assert mutex.to_owned() == 1
    with pytest.raises(MutexDestroyed):
        mutex.lock()


def test_to_owned_box(cls: Any) -> None:
    mutex = cls(0)
    in_child(add, mutex, 1)
    with mutex.to_owned_box() as box:
        assert box.value == 1


# --- grt_thrice


def add_by_name(cls: Any, name: str) -> None:
    for _ in range(100):
        with GET[cls](name, int).lock() as guard:
            guard.value += 1


def by_name(cls: Any, *names: str) -> None:
    """Register a name, do the same with the next one while workers add to this, and look at the sum."""
    name, *others = names
    REGISTER[cls](name, 0)

    def worker(line: Line) -> None:
        add_by_name(cls, name)
        line.say()

    with ExitStack() as stack:
        children = [stack.enter_context(Child(worker)) for _ in range(WORKERS)]
        if others:
            by_name(cls, *others)
        for child in children:
            child.hear()
            assert child.end() == 0
    with GET[cls](name, int).lock() as guard:
        assert guard.value == 300


def test_grt_thrice(cls: Any, grt: str) -> None:
    by_name(cls, "my_test_mutex", "my_test_mutex2", "my_test_mutex3")


# --- MutexType


def test_mutex_type(grt: str) -> None:
    assert [MutexType(word).cls for word in ("fast", "k", "section")] == [FastMutex, KMutex, CriticalSection]
    fast = Grt.register_many(MutexType.FastMutex, {"a": 1, "b": 2})
    sections = Grt.register_many(MutexType.CriticalSection, ["s"])
    assert {type(mutex) for mutex in (*fast.values(), *sections.values())} == {FastMutex, CriticalSection}
    assert Grt.get_many(MutexType.FastMutex, ["b"])["b"].peek() == 2
    with pytest.raises(TypeError, match="MutexType"):
        Grt.get_many("fast", ["b"])  # type: ignore[call-overload]


# --- GrtError::DriverMutexError(e)


def no_room(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def both_branches(error: BaseException, cls: type[DriverMutexError], instance: str | None) -> None:
    assert isinstance(error, GrtDriverMutexError)
    assert isinstance(error, GrtError)
    assert isinstance(error, cls)
    assert type(error).__name__ == cls.__name__
    assert error.instance == instance
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (again.args, again.facts) == (error.args, error.facts)


REGISTERING = [Grt.register_fast_mutex, Grt.get_or_register_kmutex, Grt.register_kmutex_checked]


@pytest.mark.parametrize("operation", REGISTERING, ids=lambda operation: operation.__name__)
def test_a_full_pool(operation: Callable[..., Any], grt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", no_room)
        with pytest.raises(GrtError) as caught:
            operation("n", "T" * 1000)
        both_branches(caught.value, PagedPoolAllocFailed, grt)
        assert isinstance(caught.value, MemoryError)
        assert caught.value.facts["errno"] == errno.ENOSPC
        with pytest.raises(PagedPoolAllocFailed):
            operation("n", "T" * 1000)
        with pytest.raises(GrtError):
            Grt.register_many(KMutex, {"n": "T" * 1000})


def test_a_level_that_is_too_high(grt: str) -> None:
    with raise_irql(3), pytest.raises(GrtError) as caught:
        Grt.register_fast_mutex("n", 0)
    both_branches(caught.value, IrqlTooHigh, grt)
    with raise_irql(3), pytest.raises(IrqlTooHigh) as alone:
        FastMutex(0)
    assert not isinstance(alone.value, GrtError), "there is no Grt in this"


def test_no_room_for_a_daemons_pool(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = f'sh -c \'ulimit -f 8; trap "" XFSZ; exec "$@"\' sh {sys.executable} -m wdkmutex_daemon'
    monkeypatch.setenv("WDKMUTEX_DAEMON", limited)
    with pytest.raises(GrtError) as caught:
        Grt.init(instance)
    both_branches(caught.value, PagedPoolAllocFailed, None)
