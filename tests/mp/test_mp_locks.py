"""The locks of a crash-proof context: as those of multiprocessing."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from mp_peers import Peer, asleep, wait_for
from processes import Line, in_child, in_thread, wait_until
from support import DEADLINE

from wdkmutex_shm import DeadlockError, IrqlTooHigh

# Children are forked while other threads run, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

KINDS = ("Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition")


def _hog(line: Line, lock: Any) -> None:
    line.say("begun")
    while True:
        with lock:
            until = time.monotonic() + 0.001
            while time.monotonic() < until:
                pass


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_who_waits_is_not_overtaken_for_ever(fork: Any, kind: str) -> None:
    lock = getattr(fork, kind)()
    with Peer(fork, _hog, lock) as hog:
        hog.hear()
        for _ in range(50):
            assert lock.acquire(timeout=DEADLINE)
            lock.release()
        hog.kill()
    assert lock.acquire(timeout=DEADLINE)


def test_what_was_promised_to_a_dead_waiter_is_free(fork: Any) -> None:
    lock = fork.Lock()
    lock.acquire()
    with Peer(fork, wait_for, lock) as waiter:
        waiter.hear()
        wait_until(lambda: lock._word.peek() >> 62, "it is promised")
        waiter.kill()
    lock.release()
    assert lock.acquire(False)
    assert not lock.acquire(False)
    lock.release()


def test_a_promise_ends_with_the_waiting(fork: Any) -> None:
    lock = fork.Lock()
    lock.acquire()
    assert not lock.acquire(timeout=0.05)
    assert lock._word.peek() >> 62 == 0
    lock.release()
    assert not lock.locked()


def _release(lock: Any) -> str:
    lock.release()
    return "released"


def test_a_lock_is_released_by_anybody(context: Any) -> None:
    lock = context.Lock()
    lock.acquire()
    assert in_child(_release, lock, method=context.get_start_method()) == "released"
    assert lock.acquire(False)
    assert in_thread(_release, lock) == "released"
    with pytest.raises(ValueError, match="released too many times"):
        lock.release()


def test_a_lock_outlives_the_thread_that_acquired_it(fork: Any) -> None:
    lock = fork.Lock()
    assert in_thread(lock.acquire)
    assert lock.locked()
    assert not lock.acquire(False)
    lock.release()
    assert not lock.locked()


def test_an_rlock_is_its_threads(context: Any) -> None:
    lock = context.RLock()
    assert lock.acquire()
    assert lock.acquire(False)
    assert not in_thread(lock.acquire, False)
    with pytest.raises(AssertionError, match="not owned by thread"):
        in_thread_raising(lock.release)
    lock.release()
    assert not in_thread(lock.acquire, False)
    lock.release()
    with pytest.raises(AssertionError, match="not owned by thread"):
        lock.release()


def _hold_and_want(line: Line, held: Any, wanted: Any) -> None:
    with held:
        line.say("held")
        line.hear()
        try:
            with wanted:
                line.say("had")
        except DeadlockError:
            line.say("deadlock")


def test_rlocks_of_processes_that_wait_for_each_other(fork: Any) -> None:
    one, other = fork.RLock(), fork.RLock()
    with Peer(fork, _hold_and_want, one, other) as first, Peer(fork, _hold_and_want, other, one) as second:
        assert first.hear() == second.hear() == "held"
        first.say("go on")
        second.say("go on")
        assert sorted([first.hear(), second.hear()]) == ["deadlock", "had"]


def in_thread_raising(work: Callable[[], Any]) -> None:
    """Run ``work`` in another thread and raise here what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(DEADLINE)
    raise raised[0]


def _interrupted(line: Line, wait: Callable[[], Any]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    line.say("waiting")
    try:
        wait()
    except KeyboardInterrupt:
        line.say("interrupted")
        line.hear()


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore"])
def test_ctrl_c_ends_waiting(fork: Any, kind: str) -> None:
    lock = getattr(fork, kind)()
    lock.acquire()
    with Peer(fork, _interrupted, lock.acquire) as child:
        child.hear()
        wait_until(lambda: asleep(child.pid), "it waits")
        child.signal(signal.SIGINT)
        assert child.hear() == "interrupted"
        lock.release()
        assert lock.acquire(timeout=DEADLINE)


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_loop_is_not_blocked(fork: Any, kind: str) -> None:
    lock = getattr(fork, kind)()

    async def main() -> None:
        with pytest.raises(IrqlTooHigh):
            lock.acquire()
        assert lock.acquire(False)
        lock.release()

    asyncio.run(main())
    assert lock.acquire(False)


def _count(line: Line, lock: Any, inside: Any, rounds: int) -> None:
    line.hear()
    for _ in range(rounds):
        with lock:
            inside[0] += 1
            if inside[0] != 1:
                inside[1] += 1
            inside[0] -= 1
            inside[2] += 1
    line.say("done")


@pytest.mark.parametrize("kind", KINDS)
def test_one_at_a_time(context: Any, kind: str) -> None:
    lock = getattr(context, kind)()
    inside = context.RawArray("q", 3)
    with Peer(context, _count, lock, inside, 500) as one, Peer(context, _count, lock, inside, 500) as other:
        one.say()
        other.say()
        assert one.hear() == other.hear() == "done"
    assert list(inside) == [0, 0, 1000]


def test_repr_says_who(fork: Any) -> None:
    lock, rlock = fork.Lock(), fork.RLock()
    assert (repr(lock), repr(rlock)) == ("<Lock(owner=None)>", "<RLock(None, 0)>")
    with lock, rlock, rlock:
        assert (repr(lock), repr(rlock)) == ("<Lock(owner=MainProcess)>", "<RLock(MainProcess, 2)>")
        assert in_thread(repr, lock) == "<Lock(owner=SomeOtherThread)>"
        assert in_child(repr, lock) == "<Lock(owner=SomeOtherProcess)>"
        assert in_child(repr, rlock) == "<RLock(SomeOtherProcess, nonzero)>"
