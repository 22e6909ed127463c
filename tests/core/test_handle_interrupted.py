"""A signal handler that raises, at every bytecode of what makes or opens things: nothing is lost, however often."""

from __future__ import annotations

import gc
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from support import remove_instance

import wdkmutex_shm
from wdkmutex_shm import FastMutex, Grt, KMutex, lock_all, mp
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool import private

LIBRARY = os.path.dirname(wdkmutex_shm.__file__)
SMALL, LARGE = b"s" * 20, b"l" * 300


class Interrupted(BaseException):
    """What the handler raises."""


def interrupted(act: Callable[[], object], number: int) -> bool:
    """Do something and raise before the library's bytecode of that number, once. Returns whether that came."""
    left = number

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(LIBRARY):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise Interrupted
        return trace

    before, hook = sys.gettrace(), sys.unraisablehook
    sys.unraisablehook = lambda *_: None  # what a handler raises in a finalizer is lost, as everywhere in Python
    sys.settrace(trace)
    try:
        act()
    except Interrupted:
        pass
    finally:
        sys.settrace(before)
        sys.unraisablehook = hook
    return left <= 0


def kept() -> tuple[int, int, int]:
    """Descriptors, data segments and tenants that this process has."""
    gc.collect()
    pool = private.the_pool()
    return len(os.listdir("/proc/self/fd")), len(shm.listing(pool.prefix + ".d")), pool.stats().used


def nothing_is_lost(act: Callable[[], object]) -> None:
    act()  # what is done at first use is done
    before = kept()
    for number in itertools.count(1):
        if not interrupted(act, number):
            break
    assert kept() == before


@pytest.mark.slow
@pytest.mark.parametrize("value", [0, "w" * 300], ids=["small", "large"])
def test_making_a_mutex(value: object) -> None:
    nothing_is_lost(lambda: KMutex(value))


@pytest.mark.slow
def test_a_t_that_grows_and_shrinks() -> None:
    mutex = FastMutex(SMALL)

    def grow() -> None:
        mutex.replace(LARGE)
        mutex.replace(LARGE * 200)
        mutex.replace(SMALL)
        mutex.replace(SMALL)

    nothing_is_lost(grow)


@pytest.mark.slow
def test_a_commit_and_several() -> None:
    one, other = KMutex(SMALL), KMutex(LARGE)

    def swap() -> None:
        with lock_all(one, other, timeout=5) as guards:
            guards[0].value, guards[1].value = guards[1].value, guards[0].value

    nothing_is_lost(swap)


@pytest.mark.slow
def test_boxes() -> None:
    def box() -> None:
        with KMutex(LARGE).to_owned_box() as boxed:
            assert boxed.value == LARGE

    nothing_is_lost(box)


@pytest.mark.slow
@pytest.mark.parametrize("make", ["Lock", "RLock", "Semaphore", "Event", "Condition"])
def test_the_types_of_multiprocessing(make: str) -> None:
    nothing_is_lost(getattr(mp.get_context(), make))


@pytest.fixture
def grt() -> Iterator[str]:
    name = f"t{os.getpid()}i"
    Grt.init(name)
    yield name
    Grt.destroy()
    remove_instance(name)


@pytest.mark.slow
def test_registering_and_getting(grt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from wdkmutex_shm.engines.local import requests

    monkeypatch.setattr(requests, "_FORGOTTEN", -1.0)

    def register() -> None:
        Grt.register_fast_mutex("n", LARGE)
        Grt.get_fast_mutex("n", bytes).peek()

    register()
    staged = len(shm.listing(Grt.get_fast_mutex("n").segment.rpartition(".")[0] + ".d"))
    for number in itertools.count(1):
        if not interrupted(register, number):
            break
    register()
    found = len(shm.listing(Grt.get_fast_mutex("n").segment.rpartition(".")[0] + ".d"))
    assert found == staged
