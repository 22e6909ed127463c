"""Run as a program: does all that can be done with mutexes once they are there, and prints what was imported meanwhile.

Run with ``mp``: the same for the types of a multiprocessing context.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import decimal
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from wdkmutex_shm import (
    CriticalSection,
    DeadlockError,
    FastMutex,
    KMutex,
    LockTimeout,
    MutexDestroyed,
    WdkMutexError,
    lock_all,
    lock_any,
    mp,
    raise_irql,
)

LARGE = 100_000
imported: list[str] = []
watched = False


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if watched and event == "import":
        imported.append(str(arguments[0]))


def refused(work: Callable[[], Any], *errors: type[BaseException]) -> None:
    """Run what raises an error, and make all of its text."""
    expected = errors or (WdkMutexError, ValueError, TypeError, OverflowError)
    try:
        work()
    except expected as error:
        str(error), repr(error)
    else:
        raise AssertionError(f"{work} raised nothing")


def elsewhere(work: Callable[[], Any]) -> int:
    """Run something in a forked child, which then sleeps. Returns its pid once it is done."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        kept = work()
        os.write(send, b"x")
        while kept is not Any:
            time.sleep(60)
    os.read(receive, 1)
    os.close(receive)
    os.close(send)
    return pid


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@dataclasses.dataclass
class Point:
    x: int
    when: datetime.datetime


def values() -> list[Any]:
    now = datetime.datetime.now(datetime.timezone.utc)
    plain = [1, 1.5, True, "text", b"bytes", [1, {"a": [2]}], {"a": 1}]
    return [*plain, (1, 2), Point(1, now), now, uuid.uuid4(), decimal.Decimal(1)]


def use(mutex: Any, value: Any) -> None:
    with mutex.lock() as guard:
        guard.value, guard.abandoned, guard.mutex, guard.released, str(guard), format(guard), repr(guard)
        guard.value = value
        guard.commit()
        refused(lambda: setattr(guard, "value", object()))
        guard.rollback()
        guard.wait_for(lambda _: True, 0)
        refused(lambda: guard.wait_for(lambda _: False, 0.002))
        mutex.owner, mutex.waiters(), mutex.statistics(), repr(mutex)
        refused(mutex.to_owned)
        with raise_irql(3):
            refused(mutex.lock)
            refused(guard.drop_safe)
    refused(lambda: guard.value)
    mutex.peek(), mutex.replace(value), mutex.wait_for(lambda _: True), next(mutex.changes(0.1))
    with mutex.lock_when(lambda _: True):
        pass
    refused(lambda: mutex.wait_for(lambda _: False, 0.002))
    refused(lambda: mutex.lock(-1))
    refused(lambda: mutex.lock("x"))


def contend(make: Callable[[], Any]) -> None:
    """What meets another process's hold, and its death."""
    mutex = make()
    locking = getattr(mutex, "lock", None) or mutex.enter
    pid = elsewhere(locking)
    refused(lambda: locking(0.01), LockTimeout)
    if hasattr(mutex, "try_lock"):
        assert mutex.try_lock() is None
        refused(mutex.to_owned)
        refused(lambda: mutex.lock_when(lambda _: True, 0.002), LockTimeout)
    refused(lambda: lock_all(mutex, make(), timeout=0.002), LockTimeout)
    refused(lambda: lock_any(mutex, timeout=0.002), LockTimeout)
    waiter = threading.Thread(target=lambda: locking(30))
    waiter.start()
    mutex.owner, mutex.waiters(), mutex.statistics(), repr(mutex)
    end(pid)
    waiter.join()
    with lock_all(mutex, make()):
        pass
    lock_any(mutex)[1].drop_safe()


def deadlock() -> None:
    one, other = FastMutex(0), KMutex(0)
    both = threading.Barrier(2)
    told = []

    def work(first: Any, second: Any) -> None:
        with first.lock(), contextlib.suppress(DeadlockError):
            both.wait()
            try:
                second.lock(20)
            except DeadlockError as error:
                told.append(str(error))
                raise

    threads = [threading.Thread(target=work, args=pair) for pair in ((one, other), (other, one))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told


async def in_loop(mutex: Any, section: Any) -> None:
    refused(mutex.lock)
    async with mutex.lock_async() as guard:
        guard.value = 1
        other = asyncio.create_task(expire(mutex))
        await other
    waiting = [asyncio.create_task(take(lock)) for lock in (mutex, section) for _ in range(3)]
    await asyncio.gather(*waiting, mutex.wait_for_async(lambda value: value >= 3, timeout=20))
    async with mutex.lock_when_async(lambda value: value >= 3):
        pass
    async for _ in mutex.changes(0.001):
        pass


async def take(lock: Any) -> None:
    async with lock.lock_async(timeout=20) as guard:
        await asyncio.sleep(0.002)
        if guard.value is not None:
            guard.value += 1


async def expire(mutex: Any) -> None:
    for request in (mutex.lock_async(0.002), mutex.lock_when_async(lambda _: False, 0.002)):
        with contextlib.suppress(LockTimeout):
            await request
    with contextlib.suppress(LockTimeout):
        await mutex.wait_for_async(lambda _: False, 0.002)


def mutexes() -> Callable[[], None]:
    every = [(kind(value), value) for kind in (KMutex, FastMutex) for value in values()]
    section, plain, gone = CriticalSection(), KMutex(0), KMutex(0)
    asyncio.run(asyncio.sleep(0))  # what asyncio loads by itself

    def work() -> None:
        for mutex, value in every:
            use(mutex, value)
        with section:
            refused(lambda: FastMutex(0)._must_be_new())
        for make in (CriticalSection, lambda: KMutex([]), lambda: FastMutex(0)):
            contend(make)
        several, large = KMutex(0), FastMutex("")
        with lock_all(several, large) as (one, other):
            one.value, other.value = 1, "x" * LARGE
        assert large.to_owned_box().value == "x" * LARGE
        deadlock()
        asyncio.run(in_loop(plain, section))
        gone.to_owned()
        refused(gone.lock, MutexDestroyed)

    return work


def types_of_mp() -> Callable[[], None]:
    context = mp.get_context("fork")
    lock, rlock, semaphore, event = context.Lock(), context.RLock(), context.Semaphore(1), context.Event()
    condition, barrier = context.Condition(), context.Barrier(2)
    queues = [context.Queue(), context.JoinableQueue(), context.SimpleQueue()]
    bounded = context.Queue(1)
    value = context.Value("q", 0)

    def work() -> None:
        for each in (lock, rlock, semaphore):
            with each:
                repr(each)
            pid = elsewhere(each.acquire)
            assert not each.acquire(False)
            assert not each.acquire(True, 0.01)
            end(pid)
            assert each.acquire(True, 30)
            each.release()
        refused(lock.release, ValueError)
        refused(rlock.release, AssertionError)
        with condition:
            assert not condition.wait(0.002)
            condition.notify_all()
            assert not condition.wait_for(lambda: False, 0.002)
        assert not event.wait(0.002)
        event.set()
        assert event.wait(30)
        refused(lambda: barrier.wait(0.002), threading.BrokenBarrierError)
        for each in queues:
            each.put("x")
            each.get()
        refused(lambda: queues[0].get(timeout=0.002), queue.Empty)
        bounded.put(1)
        refused(lambda: bounded.put(2, timeout=0.002), queue.Full)
        bounded.get()
        with value.get_lock():
            value.value += 1

    return work


if __name__ == "__main__":
    multiprocessing.current_process()
    done = types_of_mp() if sys.argv[1:] == ["mp"] else mutexes()
    sys.addaudithook(_note)
    watched = True
    done()
    watched = False
    print(" ".join(imported))
