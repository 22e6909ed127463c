"""The fence of a hold: a number that rises from one hold to the next, whoever holds and however the last one ended."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Any

import pytest
from processes import in_thread
from support import Fork

from wdkmutex_shm import CriticalSection, FastMutex, Grt, KMutex, NotOwned, lock_all


def fence_of(mutex: Any) -> int:
    """The fence of one more hold, in whichever way the kind is locked."""
    if isinstance(mutex, CriticalSection):
        with mutex:
            return mutex.fence
    with mutex.lock() as guard:
        assert guard.lost is False
        fence: int = guard.fence
        return fence


def test_rises_by_every_way_to_lock(mutex: Any) -> None:
    fences = [fence_of(mutex), fence_of(mutex)]
    fences.append(in_thread(lambda: fence_of(mutex)))
    with Fork(lambda: fence_of(mutex)) as child:
        fences.append(child.result())
    with lock_all(mutex) as (guard,):
        assert guard.lost is False
        fences.append(guard.fence)
    with pytest.raises(NotOwned):
        guard.fence

    async def in_task() -> int:
        async with mutex.lock_async() as guard:
            assert guard.lost is False
            fence: int = guard.fence
            return fence

    fences.append(asyncio.run(in_task()))
    fences.append(fence_of(mutex))
    assert fences[0] > 0
    assert fences == sorted(set(fences))


def test_rises_over_a_holder_that_is_killed(mutex: Any) -> None:
    before = fence_of(mutex)

    def die() -> None:
        mutex.enter() if isinstance(mutex, CriticalSection) else setattr(Grt, "_kept_by_test", mutex.lock())
        os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        die()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert fence_of(mutex) > before + 1, "the dead holder had a fence of its own"


def test_inner_guards_have_that_of_their_hold() -> None:
    mutex = KMutex(0)
    with mutex.lock() as outer:
        with mutex.lock() as inner:
            assert inner.is_inner
            assert inner.fence == outer.fence
        assert outer.fence == outer.fence


def test_a_new_one_after_waiting_in_a_guard() -> None:
    mutex = FastMutex(0)
    with mutex.lock() as guard:
        before = guard.fence
        done = []

        def change() -> None:
            with mutex.lock() as other:
                done.append(other.fence)
                other.value = 1

        thread = threading.Thread(target=change)
        thread.start()
        guard.wait_for(lambda value: value == 1)
        thread.join()
        assert before < done[0] < guard.fence


def test_only_the_holder_has_one(cls: Any) -> None:
    mutex = cls(0)
    with mutex.lock() as guard:

        def in_another_thread() -> bool:
            with pytest.raises(NotOwned):
                guard.fence
            return True

        assert in_thread(in_another_thread)

        def in_child() -> bool:
            with pytest.raises(NotOwned):
                guard.fence
            return True

        with Fork(in_child) as child:
            assert child.result()
    with pytest.raises(NotOwned):
        guard.fence
    assert guard.lost is False
    section = CriticalSection()
    with pytest.raises(NotOwned):
        section.fence
