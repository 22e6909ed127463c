"""What an error advises fits the call that raised it, and what does not wait works where one must not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from wdkmutex_shm import CriticalSection, FastMutex, IrqlTooHigh, KMutex, lock_all, lock_any, mp, raise_irql

_context = mp.get_context("fork")


def test_the_advice_fits_the_call() -> None:
    k, fast, section = KMutex(0), FastMutex(0), CriticalSection()
    lock, rlock, semaphore = _context.Lock(), _context.RLock(), _context.Semaphore()
    event, queue = _context.Event(), _context.Queue()
    advice: list[tuple[Callable[[], Any], set[str], set[str]]] = [
        (k.lock, {"lock_async()", "try_lock()"}, set()),
        (lambda: k.fetch_add(1), {"lock_async()", "timeout=0"}, {"try_lock"}),
        (fast.lock, {"lock_async()", "KMutex"}, set()),
        (fast.try_lock, {"KMutex"}, {"lock_async", "use try_lock"}),
        (section.enter, {"lock_async()", "try_enter()"}, {"try_lock"}),
        (lambda: k.lock_when(bool), {"lock_when_async()", "timeout=0"}, {"try_lock"}),
        (lambda: k.wait_for(bool), {"wait_for_async()", "timeout=0"}, {"try_lock"}),
        (lambda: next(k.changes()), {"async for", "timeout=0"}, {"try_lock", "lock_async"}),
        (lambda: lock_all(k, section), {"timeout=0"}, {"lock_async", "try_lock"}),
        (lambda: lock_any(k, section), {"timeout=0"}, {"lock_async", "try_lock"}),
        (lock.acquire, {"acquire(False)"}, {"lock_async", "try_lock", "try_enter"}),
        (rlock.acquire, {"acquire(False)"}, {"lock_async", "try_lock", "try_enter"}),
        (rlock.__enter__, {"acquire(False)"}, {"lock_async", "try_lock", "try_enter"}),
        (semaphore.acquire, {"acquire(False)"}, {"lock_async", "try_lock", "try_enter"}),
        (event.wait, {"is_set()"}, {"lock_async", "try_lock"}),
        (queue.get, {"get(False)"}, {"lock_async", "try_lock"}),
    ]

    async def main() -> None:
        for call, wanted, unwanted in advice:
            with pytest.raises(IrqlTooHigh) as caught:
                call()
            text = str(caught.value)
            assert "worker thread" in text
            assert all(word in text for word in wanted), text
            assert not any(word in text for word in unwanted), text

    asyncio.run(main())
    with raise_irql(2), pytest.raises(IrqlTooHigh, match="lower the IRQL") as caught:
        k.lock()
    assert "async" not in str(caught.value)
    with raise_irql(3), pytest.raises(IrqlTooHigh, match="lower the IRQL") as caught:
        k.try_lock()
    assert "try_lock()" not in str(caught.value).partition(";")[2]


def test_calls_of_mp_that_do_not_wait_work_in_a_loop() -> None:
    lock, semaphore, event, queue = _context.Lock(), _context.Semaphore(), _context.Event(), _context.Queue(1)
    changes = KMutex(7).changes(timeout=0)

    async def main() -> None:
        assert lock.acquire(timeout=0)
        assert not lock.acquire(True, -1)
        assert semaphore.acquire(timeout=0)
        assert not semaphore.acquire(timeout=0)
        assert not event.wait(0)
        assert list(changes) == [7]
        queue.put(1, timeout=0)
        assert await asyncio.to_thread(queue.get) == 1

    asyncio.run(main())
    lock.release()
    semaphore.release()
