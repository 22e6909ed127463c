"""Processes that were forked without Python's knowledge, as uWSGI's workers are: os.register_at_fork knows of none."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support import DEADLINE, Fork, wait_until

from wdkmutex_shm import FastMutex, Grt, KMutex, lock_all, mp
from wdkmutex_shm.base import identity
from wdkmutex_shm.grt import session
from wdkmutex_shm.memory import journal_files, shm
from wdkmutex_shm.mp import process_key
from wdkmutex_shm.wait import task_queue, value_async

_libc = ctypes.PyDLL(None)  # keeps the GIL, so that no other thread has it when there is no other thread any more


def bare_fork() -> int:
    """fork(2), as a C library calls it."""
    return int(_libc.fork())


def bare(work: Callable[[], Any]) -> Fork:
    return Fork(work, bare_fork)


@contextmanager
def held_by_a_thread(*locks: Any) -> Iterator[None]:
    """Another thread has these locks, at the fork as well."""
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        for lock in locks:
            lock.acquire()
        taken.set()
        done.wait(DEADLINE)
        for lock in locks:
            lock.release()

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(DEADLINE)
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_it_knows_who_it_is() -> None:
    assert process_key.pid_of(process_key.me()) == identity.me().pid == os.getpid()
    image = identity.image()

    def who() -> tuple[int, int, int, int]:
        with bare(lambda: (process_key.pid_of(process_key.me()), os.getpid())) as grandchild:
            assert grandchild.result() == (grandchild.pid, grandchild.pid)
        return process_key.pid_of(process_key.me()), identity.me().pid, os.getpid(), identity.image()

    with bare(who) as child:
        party, pid, real, its = child.result()
    assert party == pid == real == child.pid
    assert its != image


def _lock(context: Any) -> Any:
    return context.Lock()


def _rlock(context: Any) -> Any:
    return context.RLock()


def _semaphore(context: Any) -> Any:
    return context.BoundedSemaphore(1)


@pytest.mark.parametrize("make", [_lock, _rlock, _semaphore])
def test_what_it_held_when_it_was_killed_is_free(make: Callable[[Any], Any]) -> None:
    lock = make(mp.get_context("fork"))
    with lock:
        pass  # its master used it, and so did who knows
    reading, writing = os.pipe()

    def hold() -> None:
        lock.acquire()
        os.write(writing, b"!")
        threading.Event().wait()

    with bare(hold) as child:
        assert os.read(reading, 1) == b"!"
        assert not lock.acquire(timeout=0.05)
        child.kill()
        assert lock.acquire(timeout=DEADLINE)
        lock.release()
    os.close(reading)
    os.close(writing)


def test_its_place_in_a_queue_is_free_when_it_was_killed() -> None:
    queue = mp.get_context("fork").Queue(1)
    queue.put("first")
    assert queue.get(timeout=DEADLINE) == "first"

    def reserve() -> None:
        had: list[bool] = []
        queue._counts.reserve(True, None, had)  # as put() does; it is killed before the item is sent
        os.kill(os.getpid(), 9)

    with bare(reserve) as child:
        wait_until(lambda: os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), "it is killed")
        queue.put("second", timeout=DEADLINE)
        assert queue.get(timeout=DEADLINE) == "second"
    queue.close()
    queue.join_thread()


def test_it_puts_items_though_its_master_had_a_feeder_thread() -> None:
    queue = mp.get_context("fork").Queue()
    queue.put("master's")
    assert queue.get(timeout=DEADLINE) == "master's"

    def put() -> None:
        queue.put("worker's")
        queue.close()
        queue.join_thread()

    with bare(put) as child:
        child.result()
    assert queue.get(timeout=DEADLINE) == "worker's"
    queue.close()
    queue.join_thread()


def test_it_has_a_connection_of_its_own(grt: str) -> None:
    Grt.register_fast_mutex("n", 1)
    client = session.current()
    turn = client._turns.take(DEADLINE)  # a call is under way at the fork
    assert turn is not None

    def work() -> tuple[list[str], int]:
        number = session.current()._session
        client.close()
        return Grt.names(), number

    with held_by_a_thread(session._lock), bare(work) as child:
        names, number = child.result()
    turn.end()
    assert names == ["n"]
    assert number != client._session
    assert Grt.names() == ["n"], "the master's connection is its own"


def test_it_may_attach_for_itself(grt: str) -> None:
    with held_by_a_thread(session._lock), bare(lambda: Grt.init(grt)) as child:
        child.result()


def test_it_makes_mutexes_in_a_pool_of_its_own() -> None:
    ours = KMutex(1)

    def make() -> tuple[str, int]:
        theirs = KMutex(2)
        return theirs.segment, ours.fetch_add(1)

    with bare(make) as child:
        segment, before = child.result()
    assert f"@{child.pid}." in segment
    assert before == 1
    assert ours.peek() == 2


def test_it_has_a_journal_of_its_own() -> None:
    a, b = FastMutex(0), FastMutex(0)

    def publish() -> bool:
        with lock_all(a, b) as (one, two):
            one.value += 1
            two.value += 1
        name = journal_files.name_of(journal_files._note_of(*identity.me()), shm_user(), identity.pid_namespace())
        return os.path.exists(shm.FOLDER + name)

    assert publish()
    with bare(publish) as child:
        assert child.result()
    assert (a.peek(), b.peek()) == (2, 2)


def shm_user() -> str:
    from wdkmutex_shm.base.names import user_prefix

    return user_prefix()


async def _contended(mutex: Any) -> int:
    async def once() -> None:
        async with mutex.lock_async(timeout=DEADLINE) as guard:
            await asyncio.sleep(0)
            guard.value += 1

    await asyncio.gather(*(once() for _ in range(5)))
    adding = asyncio.to_thread(lambda: [mutex.fetch_add(1) for _ in range(5)])
    _, value = await asyncio.gather(adding, mutex.wait_for_async(lambda n: n >= 10, timeout=DEADLINE))
    return int(value)


def test_its_tasks_wait_though_its_masters_helper_threads_are_gone() -> None:
    mutex = KMutex(0)
    assert asyncio.run(_contended(mutex)) == 10
    assert task_queue._idle or value_async._posts, "its master has helpers"
    with (
        held_by_a_thread(task_queue._lock, value_async._lock),
        bare(lambda: asyncio.run(_contended(KMutex(0)))) as child,
    ):
        assert child.result() == 10
