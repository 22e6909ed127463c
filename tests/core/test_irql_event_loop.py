"""The event loop's level, and what a level is to other threads and to forked children."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from processes import in_child, in_thread
from support import Fork

from wdkmutex_shm import (
    CriticalSection,
    FastMutex,
    Irql,
    IrqlNotAPCLevel,
    IrqlTooHigh,
    KMutex,
    NotOwned,
    current_irql,
    raise_irql,
)

PASSIVE, APC, DISPATCH = Irql.PASSIVE, Irql.APC, Irql.DISPATCH

pytestmark = pytest.mark.usefixtures("passive")


def test_other_threads_have_their_own_level() -> None:
    with raise_irql(DISPATCH):
        assert in_thread(current_irql) is PASSIVE
        mutex = KMutex(0)
        assert in_thread(mutex.fetch_add) == 0


def test_raise_is_left_by_its_own_thread() -> None:
    raised = raise_irql(APC)

    def leave() -> str:
        try:
            raised.__exit__(None, None, None)
        except NotOwned as error:
            return str(error)
        return ""

    with raised:
        assert "another thread" in in_thread(leave)
        assert current_irql() is APC
    assert current_irql() is PASSIVE


def test_event_loop_is_at_dispatch() -> None:
    fast, k, section = FastMutex(0), KMutex(0), CriticalSection()

    async def main() -> None:
        assert current_irql() is DISPATCH
        for refused in (fast.lock, fast.try_lock, k.lock, k.fetch_add, section.enter, section.__enter__):
            with pytest.raises(IrqlTooHigh, match="event loop"):
                refused()
        with k.try_lock() as guard:  # type: ignore[union-attr]
            guard.value = 5
        assert k.fetch_add(1, 0) == 5
        assert section.try_enter()
        section.leave()
        FastMutex(0)
        assert await asyncio.get_running_loop().run_in_executor(None, fast.fetch_add) == 0
        assert await asyncio.to_thread(current_irql) is PASSIVE
        await asyncio.sleep(0)
        assert current_irql() is DISPATCH
        with raise_irql(5):
            assert current_irql() == 5

    asyncio.run(main())
    assert current_irql() is PASSIVE
    with fast.lock() as guard:
        assert guard.value == 1


def test_coroutine_without_a_loop_and_loop_that_is_not_running() -> None:
    async def level() -> int:
        return current_irql()

    coroutine = level()
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    assert stopped.value.value == PASSIVE
    loop = asyncio.new_event_loop()
    assert current_irql() is PASSIVE
    assert loop.run_until_complete(level()) is DISPATCH
    loop.close()


def test_fast_mutex_held_into_an_event_loop() -> None:
    fast = FastMutex(0)

    async def main() -> None:
        guard.value = 3
        assert current_irql() is DISPATCH
        with pytest.raises(IrqlNotAPCLevel):
            guard.drop_safe()

    with fast.lock() as guard:
        asyncio.run(main())
    assert fast.peek() == 3


def test_trio_is_at_dispatch() -> None:
    trio = pytest.importorskip("trio")
    k = KMutex(0)

    async def main() -> None:
        assert current_irql() is DISPATCH
        with pytest.raises(IrqlTooHigh):
            k.lock()
        assert await trio.to_thread.run_sync(current_irql) is PASSIVE

    trio.run(main)
    assert current_irql() is PASSIVE


def test_event_loop_library_imported_after_us() -> None:
    code = (
        "import wdkmutex_shm as w; assert w.current_irql() == 0; import asyncio\n"
        "async def main(): return w.current_irql()\n"
        "assert asyncio.run(main()) == 2 and w.current_irql() == 0"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done


def test_fork_gives_up_fast_mutexes_held() -> None:
    fast = FastMutex(0)
    with fast.lock():
        assert in_child(current_irql) is PASSIVE
        assert current_irql() is APC


def test_raise_over_fork() -> None:
    raised = raise_irql(DISPATCH)
    raised.__enter__()

    def work() -> tuple[int, int]:
        before = current_irql()
        raised.__exit__(None, None, None)
        return before, current_irql()

    # The child's thread is the copy of this one: what it inherited it can lower.
    assert in_child(work) == (DISPATCH, PASSIVE)
    raised.__exit__(None, None, None)
    assert current_irql() is PASSIVE


def test_guard_dropped_in_another_thread_gives_the_level_back() -> None:
    fast = FastMutex(0)
    box = [fast.lock()]
    in_thread(box.clear)
    FastMutex(0).fetch_add(1)
    assert current_irql() is PASSIVE
    assert fast.owner is None


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_fork_beside_a_loop() -> None:
    async def main() -> tuple[int, int]:
        return current_irql(), await asyncio.to_thread(lambda: Fork(current_irql).result())

    assert asyncio.run(main()) == (DISPATCH, PASSIVE)
