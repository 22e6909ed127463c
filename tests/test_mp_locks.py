"""The locks of a crash-proof context: as those of multiprocessing, and released when their holder is killed."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from procs import Child, Line, in_child, in_thread, wait_until
from support import DEADLINE

from wdkmutex_shm import IrqlTooHigh, mp
from wdkmutex_shm.mp import locks

# Children are forked while other threads run, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

METHODS = ("fork", "spawn", "forkserver")
KINDS = ("Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition")


@pytest.fixture(params=METHODS)
def context(request: pytest.FixtureRequest) -> Any:
    return mp.get_context(request.param)


@pytest.fixture
def fork() -> Any:
    return mp.get_context("fork")


class Peer(Child):
    """A child of a crash-proof context, killed when its ``with`` is left."""

    def __init__(self, context: Any, target: Callable[..., Any], *args: Any) -> None:
        # Child starts it through multiprocessing's own context of the same method: what is handed over must not care.
        super().__init__(target, *args, method=context.get_start_method())


def _hold(line: Line, lock: Any) -> None:
    assert lock.acquire()
    line.say("held")
    line.hear(3600)


def _wait_for(line: Line, lock: Any, timeout: float | None = None) -> None:
    line.say("waiting")
    line.say(lock.acquire(timeout=timeout))
    line.hear(3600)


def asleep(pid: int) -> bool:
    """Whether a process sleeps, in whatever: it waits, if that is what it was told to do last."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_killed_process_held_is_released(context: Any, kind: str) -> None:
    lock = getattr(context, kind)()
    with Peer(context, _hold, lock) as child:
        assert child.hear() == "held"
        assert not lock.acquire(False)
        assert not lock.acquire(timeout=0.05)
        child.kill()
    assert lock.acquire(timeout=DEADLINE)
    lock.release()
    assert lock.acquire(False)
    lock.release()


@pytest.mark.parametrize("timeout", [None, 0])
@pytest.mark.parametrize("kind", KINDS)
def test_who_only_tries_gets_it_from_the_dead(fork: Any, kind: str, timeout: int | None) -> None:
    lock = getattr(fork, kind)()
    with Peer(fork, _hold, lock) as child:
        child.hear()
        assert not (lock.acquire(False) if timeout is None else lock.acquire(timeout=timeout))
        child.kill()
    assert lock.acquire(False) if timeout is None else lock.acquire(timeout=timeout)
    assert getattr(lock, "abandoned", True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_waiter_gets_it_from_the_dead(fork: Any, kind: str) -> None:
    lock = getattr(fork, kind)()
    with Peer(fork, _hold, lock) as holder:
        holder.hear()
        with Peer(fork, _wait_for, lock) as waiter:
            waiter.hear()
            holder.kill()
            assert waiter.hear() is True


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_the_next_owner_is_told(fork: Any, kind: str) -> None:
    lock = getattr(fork, kind)()
    with lock:
        assert not lock.abandoned
    with Peer(fork, _hold, lock) as child:
        child.hear()
        child.kill()
    with lock:
        assert lock.abandoned
    with lock:
        assert not lock.abandoned


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_waiter_is_not_missed(fork: Any, kind: str) -> None:
    lock = getattr(fork, kind)()
    lock.acquire()
    with Peer(fork, _wait_for, lock) as first:
        first.hear()
        wait_until(lambda: asleep(first.pid), "the first waits")
        with Peer(fork, _wait_for, lock) as second:
            second.hear()
            first.kill()
            lock.release()
            assert second.hear() is True


@pytest.mark.parametrize("kind", ["Lock", "Semaphore"])
def test_a_stopped_waiter_holds_up_nobody(fork: Any, kind: str) -> None:
    lock = getattr(fork, kind)()
    lock.acquire()
    with Peer(fork, _wait_for, lock) as first:
        first.hear()
        wait_until(lambda: lock._line.section.locked(), "the first stands in line")
        first.stop()
        with Peer(fork, _wait_for, lock) as second:
            second.hear()
            lock.release()
            assert second.hear() is True
            assert first.silent(0)


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
    with Peer(fork, _wait_for, lock) as waiter:
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


@pytest.mark.parametrize("kind", [*KINDS, "Event", "Queue", "SimpleQueue", "JoinableQueue"])
def test_is_handed_to_children_only_while_they_start(fork: Any, kind: str) -> None:
    with pytest.raises(RuntimeError, match="only be shared between processes through inheritance"):
        pickle.dumps(getattr(fork, kind)())


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


def _count_for_ever(line: Line, lock: Any, inside: Any) -> None:
    line.say("begun")
    while True:
        with lock:
            inside[0] = me = os.getpid()
            inside[1] += 1
            if inside[0] != me:
                inside[2] += 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_goes_on_through_a_storm_of_kills(fork: Any, kind: str) -> None:
    lock = getattr(fork, kind)()
    inside = fork.RawArray("q", 3)
    for _ in range(6):
        with Peer(fork, _count_for_ever, lock, inside) as one, Peer(fork, _count_for_ever, lock, inside) as other:
            one.hear()
            other.hear()
            before = inside[1]
            wait_until(lambda before=before: inside[1] > before + 20, "they count")
            one.kill()
            before = inside[1]
            wait_until(lambda before=before: inside[1] > before + 20, "the other counts on")
            other.kill()
    assert lock.acquire(timeout=DEADLINE)
    assert inside[2] == 0


def test_a_semaphore_of_several_gives_back_what_the_dead_had(context: Any) -> None:
    semaphore = context.BoundedSemaphore(3)
    semaphore.acquire()
    with Peer(context, _take, semaphore, 2) as child:
        assert child.hear() == 2
        assert semaphore.get_value() == 0
        child.kill()
    assert semaphore.acquire(timeout=DEADLINE)
    assert semaphore.acquire(timeout=DEADLINE)
    for _ in range(3):
        semaphore.release()
    assert semaphore.get_value() == 3


def test_a_bounded_semaphore_has_a_bound(context: Any) -> None:
    semaphore = context.BoundedSemaphore(2)
    assert semaphore.acquire()
    semaphore.release()
    with pytest.raises(ValueError, match="released too many times"):
        semaphore.release()
    assert semaphore.get_value() == 2


def _take(line: Line, semaphore: Any, count: int) -> None:
    for _ in range(count):
        assert semaphore.acquire(timeout=DEADLINE)
    line.say(count)
    line.hear(3600)


def test_a_signal_that_a_dead_process_had_taken_is_used_up(fork: Any) -> None:
    semaphore = fork.Semaphore(0)
    with Peer(fork, _take, semaphore, 1) as child:
        semaphore.release()
        assert child.hear() == 1
        child.kill()
    assert not semaphore.acquire(timeout=0.3)
    assert semaphore.get_value() == 0


def test_places_that_a_dead_process_had_taken_are_counted_once(fork: Any) -> None:
    places = fork.BoundedSemaphore(2)
    with Peer(fork, _take, places, 2) as producer:  # it put two items
        producer.hear()
        producer.kill()
    assert places.acquire(timeout=DEADLINE)  # so far it looks as if the producer had used them as a resource
    places.release()
    places.release()  # but here a consumer releases for the first item
    places.release()  # and for the second
    assert places.get_value() == 2


def _wait_condition(line: Line, condition: Any, timeout: float | None = None) -> None:
    with condition:
        line.say("waiting")
        told = condition.wait(timeout)
        line.say(told)
    line.hear(3600)


def _listed(condition: Any, count: int) -> None:
    wait_until(lambda: condition._sleeping_count.get_value() == count, f"{count} wait")


@pytest.mark.parametrize("inner", ["Lock", "RLock"])
def test_a_killed_waiter_does_not_eat_a_notification(context: Any, inner: str) -> None:
    condition = context.Condition(getattr(context, inner)())
    with Peer(context, _wait_condition, condition) as first:
        first.hear()
        _listed(condition, 1)
        with Peer(context, _wait_condition, condition) as second:
            second.hear()
            _listed(condition, 2)
            first.kill()
            with condition:
                condition.notify()
            assert second.hear() is True


def test_a_notification_is_handed_on_by_the_dead(fork: Any) -> None:
    condition = fork.Condition()
    with Peer(fork, _wait_condition, condition) as first:
        first.hear()
        _listed(condition, 1)
        with Peer(fork, _wait_condition, condition) as second:
            second.hear()
            _listed(condition, 2)
            with condition:
                condition.notify()
                assert condition._wait_semaphore.get_value() == 1
                first.kill()  # notified, but without the lock
            assert second.hear() is True
            wait_until(lambda: condition._sleeping_count.get_value() == 0)


def test_a_notifier_is_killed(fork: Any) -> None:
    condition = fork.Condition()
    with Peer(fork, _wait_condition, condition) as waiter:
        waiter.hear()
        _listed(condition, 1)
        with Peer(fork, _notify_and_stay, condition) as notifier:
            notifier.hear()
            notifier.kill()  # it holds the lock
        assert waiter.hear() is True


def _notify_and_stay(line: Line, condition: Any) -> None:
    condition.acquire()
    condition.notify_all()
    line.say("notified")
    line.hear(3600)


def test_a_condition_keeps_its_lock_and_depth(fork: Any) -> None:
    condition = fork.Condition()
    with condition, condition:
        assert not condition.wait(0.01)
        assert condition._lock._count() == 2
        assert condition.wait_for(lambda: 5, 1) == 5
        assert condition.wait_for(lambda: 0, 0.01) == 0
    with pytest.raises(AssertionError, match="must acquire"):
        condition.wait(0)
    with pytest.raises(AssertionError, match="not owned"):
        condition.notify()


def _interrupted_condition(line: Line, condition: Any) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with condition:
        line.say("waiting")
        try:
            condition.wait()
        except KeyboardInterrupt:
            line.say(condition._lock._is_mine())
    line.hear(3600)


def test_ctrl_c_in_a_condition_leaves_no_waiter(fork: Any) -> None:
    condition = fork.Condition()
    with Peer(fork, _interrupted_condition, condition) as child:
        child.hear()
        _listed(condition, 1)
        child.signal(signal.SIGINT)
        assert child.hear() is True
        wait_until(lambda: condition._sleeping_count.get_value() == 0)


def test_a_condition_of_multiprocessings_own_lock(fork: Any) -> None:
    import multiprocessing

    condition = fork.Condition(multiprocessing.get_context("fork").RLock())
    with Peer(fork, _wait_condition, condition) as child:
        child.hear()
        _listed(condition, 1)
        with condition:
            condition.notify_all()
        assert child.hear() is True


def _wait_event(line: Line, event: Any) -> None:
    line.say("waiting")
    line.say(event.wait(DEADLINE))


def test_an_event(context: Any) -> None:
    event = context.Event()
    assert not event.wait(0.01)
    with Peer(context, _wait_event, event) as child:
        child.hear()
        event.set()
        assert child.hear() is True
    assert event.is_set()
    assert "set" in repr(event)
    event.set()
    event.clear()
    event.clear()
    assert not event.is_set()


def test_an_event_that_was_set_for_an_instant_is_not_missed(fork: Any) -> None:
    event = fork.Event()
    with Peer(fork, _wait_event, event) as child:
        child.hear()
        wait_until(lambda: asleep(child.pid), "it waits")
        child.stop()
        event.set()
        event.clear()
        child.proceed()
        assert child.hear() is True


def _arrive(line: Line, barrier: Any) -> None:
    try:
        line.say(barrier.wait())
    except threading.BrokenBarrierError:
        line.say("broken")
    line.hear(3600)


def test_a_barrier(context: Any) -> None:
    barrier = context.Barrier(3)
    with Peer(context, _arrive, barrier) as one, Peer(context, _arrive, barrier) as other:
        assert sorted([barrier.wait(DEADLINE), one.hear(), other.hear()]) == [0, 1, 2]
    assert barrier.n_waiting == 0
    assert not barrier.broken


def test_who_dies_at_a_barrier_breaks_it(context: Any) -> None:
    barrier = context.Barrier(3)
    with Peer(context, _arrive, barrier) as one, Peer(context, _arrive, barrier) as other:
        wait_until(lambda: barrier.n_waiting == 2, "both wait")
        one.kill()
        assert other.hear() == "broken"
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    with Peer(context, _arrive, barrier) as one, Peer(context, _arrive, barrier) as other:
        barrier.wait(DEADLINE)
        assert one.hear() != other.hear()


def _stay() -> None:
    signal.pause()


def test_who_dies_in_the_action_breaks_the_barrier(fork: Any) -> None:
    barrier = fork.Barrier(2, _stay)
    with Peer(fork, _arrive, barrier) as one:
        wait_until(lambda: barrier.n_waiting == 1, "one waits")
        with Peer(fork, _arrive, barrier) as actor:
            wait_until(lambda: barrier._cell.peek()[1] == 1, "the action runs")
            actor.kill()
        assert one.hear() == "broken"


@pytest.mark.parametrize("typecode", ["i", "d"])
def test_the_lock_of_a_value_is_released(context: Any, typecode: str) -> None:
    value = context.Value(typecode, 3)
    array = context.Array(typecode, [1, 2])
    with Peer(context, _hold, value.get_lock()) as one, Peer(context, _hold, array.get_lock()) as other:
        one.hear()
        other.hear()
        one.kill()
        other.kill()
    with value:
        value.value += 1
    with array:
        array[0] += 1
    assert (value.value, array[:]) == (4, [2, 2])


def test_contexts() -> None:
    for method in METHODS:
        context = mp.get_context(method)
        assert context.get_start_method() == method
        assert context.get_context() is context
        assert context.get_context("spawn") is mp.get_context("spawn")
    with pytest.raises(ValueError, match="cannot find context"):
        mp.get_context("threads")


def test_repr_says_who(fork: Any) -> None:
    lock, rlock = fork.Lock(), fork.RLock()
    assert (repr(lock), repr(rlock)) == ("<Lock(owner=None)>", "<RLock(None, 0)>")
    with lock, rlock, rlock:
        assert (repr(lock), repr(rlock)) == ("<Lock(owner=MainProcess)>", "<RLock(MainProcess, 2)>")
        assert in_thread(repr, lock) == "<Lock(owner=SomeOtherThread)>"
        assert in_child(repr, lock) == "<Lock(owner=SomeOtherProcess)>"
        assert in_child(repr, rlock) == "<RLock(SomeOtherProcess, nonzero)>"


def test_bounds(fork: Any) -> None:
    with pytest.raises(ValueError, match="begins with"):
        fork.Semaphore(-1)
    with pytest.raises(ValueError, match="parties"):
        fork.Barrier(0)
    assert fork.Semaphore(sys.maxsize >> 33).get_value() == sys.maxsize >> 33


class Alarm(Exception):
    """Raised by a signal handler."""


def _alarmed(line: Line, condition: Any) -> None:
    def alarm(*_: object) -> None:
        raise Alarm

    signal.signal(signal.SIGUSR1, alarm)
    with condition:
        line.say("waiting")
        try:
            condition.wait()
        except Alarm:
            line.say(condition._lock._is_mine())
    line.say(condition._lock.locked())
    line.hear(3600)


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_what_a_signal_handler_raises_while_a_condition_takes_its_lock_again(fork: Any, kind: str) -> None:
    condition = fork.Condition(getattr(fork, kind)())
    with Peer(fork, _alarmed, condition) as child:
        child.hear()
        with condition:
            _listed(condition, 1)
            condition.notify_all()
            wait_until(lambda: asleep(child.pid), "it waits for the lock")
            child.signal(signal.SIGUSR1)
            assert child.silent(0.3)
        assert child.hear() is True
        assert child.hear() is False


def test_what_a_signal_handler_raises_right_after_a_lock_was_taken_back(fork: Any, monkeypatch: Any) -> None:
    lock = fork.Lock()
    condition = fork.Condition(lock)
    had = locks._Restore.take

    def take(attempt: Any, first: bool) -> Any:
        assert had(attempt, first)
        raise Alarm

    monkeypatch.setattr(locks._Restore, "take", take)
    lock.acquire()
    with pytest.raises(Alarm):
        condition.wait(0.01)
    assert lock._is_mine()
    lock.release()
    assert not lock.locked()


def test_abort_breaks_a_barrier_that_opens_just_then(fork: Any, monkeypatch: Any) -> None:
    barrier = fork.Barrier(1)
    real, passed = mp.barrier.changed, []

    def changed(cell: Any, change: Any) -> Any:
        if not passed:
            passed.append(True)
            barrier.wait()  # the round that was there when abort() was called is over
        return real(cell, change)

    monkeypatch.setattr(mp.barrier, "changed", changed)
    barrier.abort()
    assert barrier.broken
