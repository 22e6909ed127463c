"""A thread that holds more locks than the kernel releases at its end (2,048: ROBUST_LIST_LIMIT): none stays locked."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from kinds import KINDS, acquire, attempt, make
from processes import Child, Line, in_thread
from support import wait_until

from wdkmutex_shm import FastMutex, KMutex, LockTimeout, lock_all, lock_any
from wdkmutex_shm.core._core import Segment, free_dead

MANY = 2500
"""More than 2,048; the oldest of them are those that the kernel does not get to."""


def hold(line: Line, mutexes: list[Any]) -> None:
    holds = [acquire(mutex) for mutex in mutexes]
    line.say()
    line.hear()
    del holds


def left_by_killed(mutexes: list[Any]) -> int:
    """Have a process killed that holds all of these, in this order; returns its pid."""
    with Child(hold, mutexes) as child:
        child.hear()
        child.kill()
        return child.pid


def oldest(kind: str, most: int = 100) -> tuple[list[Any], int]:
    """Some mutexes that a dead process holds beyond the kernel's limit, and its pid."""
    mutexes = [make(kind) for _ in range(most)]
    rest = [FastMutex(0) for _ in range(MANY - most)]
    return mutexes, left_by_killed(mutexes + rest)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_lock_of_a_killed_process_is_to_be_had_and_tells_of_the_death(kind: str) -> None:
    mutexes = [make(kind) for _ in range(MANY)]
    pid = left_by_killed(mutexes)
    for mutex in mutexes:
        with acquire(mutex, 5) as held:
            assert (held.abandoned, held.abandoned_by) == (True, pid)
    for mutex in mutexes:
        assert mutex.statistics().abandoned == 1
        assert mutex.owner is None


@pytest.mark.slow
def test_the_locks_of_more_tasks_than_that() -> None:
    mutexes = [FastMutex(0) for _ in range(MANY)]

    def run(line: Line) -> None:
        async def main() -> None:
            async def one(mutex: FastMutex[int]) -> None:
                async with mutex.lock_async():
                    arrived.append(mutex)
                    await asyncio.sleep(1000)

            arrived: list[Any] = []
            tasks = [asyncio.create_task(one(mutex)) for mutex in mutexes]
            while len(arrived) < MANY:
                await asyncio.sleep(0)
            line.say()
            await asyncio.gather(*tasks)

        asyncio.run(main())

    with Child(run) as child:
        child.hear()
        child.kill()

    async def all_of_them() -> None:
        async def one(mutex: FastMutex[int]) -> bool:
            async with mutex.lock_async(timeout=20) as guard:
                return guard.abandoned

        assert all(await asyncio.gather(*map(one, mutexes)))

    asyncio.run(all_of_them())


@pytest.mark.slow
def test_who_only_tries_or_waits_for_any_or_all_gets_them_as_well() -> None:
    mutexes, pid = oldest("k")
    for mutex in mutexes[:10]:
        held = attempt(mutex)
        assert held is not None
        assert held.abandoned_by == pid
        held.release()
    with lock_all(*mutexes[10:70], timeout=5) as guards:
        assert all(guard.abandoned for guard in guards)
    index, guard = lock_any(*mutexes[70:72], timeout=5)
    assert guard.abandoned
    guard.drop_safe()
    assert mutexes[71 - index].replace(7, timeout=5) == 0  # the other one, without a guard
    assert mutexes[72].fetch_add(1, timeout=0.02) == 0


@pytest.mark.slow
def test_whoever_looks_sees_that_the_holder_is_dead() -> None:
    mutexes, pid = oldest("fast", 3)
    owner = mutexes[0].owner
    assert (owner.pid, owner.alive) == (pid, False)
    assert "abandoned" in repr(mutexes[0])
    with mutexes[0].try_lock() as guard:
        assert guard.abandoned_by == pid
    with mutexes[2].lock(timeout=0) as guard:
        assert guard.abandoned_by == pid
    assert mutexes[1].to_owned() == 0


@pytest.mark.slow
def test_a_thread_that_ends_in_a_process_that_lives() -> None:
    mutexes = [FastMutex(0) for _ in range(MANY)]

    def work() -> None:
        kept.extend(mutex.lock() for mutex in mutexes)

    kept: list[Any] = []
    in_thread(work)
    for mutex in mutexes:
        with mutex.lock(timeout=5) as guard:
            assert guard.abandoned_by == os.getpid()
    kept.clear()


@pytest.mark.slow
def test_a_process_that_nobody_has_waited_for_yet() -> None:
    mutexes = [FastMutex(0) for _ in range(MANY)]
    with Child(hold, mutexes) as child:
        child.hear()
        os.kill(child.pid, 9)
        wait_until(lambda: mutexes[0].owner.alive is False, "it is a zombie")
        with mutexes[0].lock(timeout=5) as guard:
            assert guard.abandoned_by == child.pid


@pytest.mark.slow
def test_housekeeping_and_doctor_free_them_all() -> None:
    mutexes, _ = oldest("section")
    segments = {mutex.segment for mutex in mutexes}
    held = [mutex for mutex in mutexes if mutex.owner is not None]
    assert held
    freed = sum(free_dead(Segment.attach(name, name.rpartition(".")[0])) for name in segments)
    assert freed >= len(held)
    for mutex in mutexes:
        assert mutex.try_enter()
        assert mutex.abandoned
        mutex.leave()


@pytest.mark.slow
def test_a_slot_that_a_dead_thread_holds_comes_out_of_quarantine() -> None:
    from wdkmutex_shm.pool import private

    before = private.the_pool().reclaim()  # what other tests have left locked
    mutexes, _ = oldest("fast")
    assert mutexes[0].owner is not None
    mutexes.clear()
    wait_until(lambda: private.the_pool().reclaim() <= before, "nothing more is left in quarantine")


def with_pid(pid: int, run: Callable[[], None]) -> int:
    """Run something in a forked process of this pid; returns how it ended. Nobody else may fork meanwhile."""
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(pid - 1))
    child = os.fork()
    if child == 0:
        try:
            run()
        finally:
            os._exit(1 if sys.exc_info()[0] else 0)
    assert child == pid
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def the_same_pid_again() -> None:
    mutexes, pid = oldest("fast")

    def get() -> None:
        for mutex in mutexes[:50]:
            with mutex.lock(timeout=1) as guard:
                assert guard.abandoned_by == pid

    assert with_pid(pid, get) == 0
    with mutexes[60].lock(timeout=5) as guard:
        assert guard.abandoned_by == pid


def others_beside_the_same_pid() -> None:
    mutexes, pid = oldest("k")
    come, go = os.pipe(), os.pipe()
    time.sleep(0.05)  # two processes that begin in one tick of the clock cannot be told apart

    def sleep() -> None:
        os.write(come[1], b"1")
        os.read(go[0], 1)

    def take() -> None:
        os.read(come[0], 1)
        wait_until(lambda: mutexes[0].owner.alive is False)
        for mutex in mutexes[:3]:
            with mutex.lock(timeout=5) as guard:
                assert guard.abandoned_by == pid
        taken.append(True)
        os.write(go[1], b"1")

    taken: list[bool] = []
    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    assert with_pid(pid, sleep) == 0
    thread.join(30)
    assert taken


@pytest.mark.slow
@pytest.mark.parametrize("scene", [the_same_pid_again, others_beside_the_same_pid])
def test_a_new_process_with_the_pid_of_the_dead_one(scene: Callable[[], None]) -> None:
    apart = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if os.geteuid() != 0 or subprocess.run([*apart, "true"], check=False, capture_output=True).returncode:
        pytest.skip("only root may choose the pid of a new process")
    done = subprocess.run(
        [*apart, sys.executable, __file__, scene.__name__],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # where the tests' helpers are
    )
    assert done.returncode == 0, done.stderr


def test_who_holds_a_lock_and_lives_keeps_it_however_often_others_look() -> None:
    mutex = KMutex(0)
    with Child(hold, [mutex]) as child:
        child.hear()
        child.stop()
        with pytest.raises(LockTimeout):
            mutex.lock(timeout=1.2)
        assert mutex.owner.alive
        free_dead(Segment.attach(mutex.segment, mutex.segment.rpartition(".")[0]))
        assert mutex.owner.alive
        assert mutex.try_lock() is None
        child.proceed()
        child.say()
        with mutex.lock(timeout=5) as guard:
            assert not guard.abandoned


if __name__ == "__main__":
    globals()[sys.argv[1]]()
