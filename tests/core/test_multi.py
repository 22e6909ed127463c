"""lock_all and lock_any over real processes and in every state of their mutexes."""

from __future__ import annotations

import contextlib
import pickle
import random
import signal
import threading
from typing import Any

import pytest
from kinds import KINDS, destroy, make
from multi import SOON, free, mixed, waits_for
from processes import (
    Child,
    Line,
    Worker,
    held_by_child,
    wait_for_waiter,
    wait_until,
    waiters,
)
from support import kill_daemon

from wdkmutex_shm import (
    CriticalSection,
    FastMutex,
    Grt,
    Guard,
    IrqlNotAPCLevel,
    IrqlTooHigh,
    KMutex,
    LockTimeout,
    MutexDestroyed,
    lock_all,
    lock_any,
    raise_irql,
)


@pytest.fixture(params=[lock_all, lock_any])
def call(request: pytest.FixtureRequest) -> Any:
    return request.param


# --- kinds, numbers, arguments ---


def test_kinds_mixed() -> None:
    k, fast, section = mixed()
    with lock_all(section, fast, k) as (of_section, of_fast, of_k):
        assert of_section.mutex is section
        assert not of_section.abandoned
        assert of_section.abandoned_by is None
        assert section.locked()
        of_fast.value += of_k.value
        of_k.value = 0
    assert (k.peek(), fast.peek()) == (0, 3)
    assert free(k, fast, section)


def test_sixty_four(call: Any) -> None:
    mutexes = [make(KINDS[number % 3]) for number in range(64)]
    random.Random(1).shuffle(mutexes)
    if call is lock_all:
        with lock_all(*mutexes) as guards:
            for guard in guards:
                if isinstance(guard, Guard):
                    guard.value = 7
        assert {mutex.peek() for mutex in mutexes if not isinstance(mutex, CriticalSection)} == {7}
    else:
        seen = set()
        for _ in range(64):
            index, guard = lock_any(*mutexes)
            seen.add(index)
            guard.drop_safe()
        assert seen == set(range(64))
    assert free(*mutexes)
    with pytest.raises(ValueError, match="1 to 64"):
        call(*mutexes, FastMutex(0))


def test_no_mutex(call: Any) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        call()


def test_one_mutex_twice(call: Any, cls: Any) -> None:
    one, other = cls(1), cls(2)
    again = pickle.loads(pickle.dumps(one))
    for handle in (one, again):
        with pytest.raises(ValueError, match="more than once"):
            call(one, other, handle)
    assert free(one, other)


def test_what_is_no_mutex(call: Any, cls: Any) -> None:
    mutex = cls(1)
    for wrong in (None, 1, mutex.peek, threading.Lock(), cls):
        with pytest.raises(TypeError, match="KMutexes"):
            call(mutex, wrong)
    for _ in range(2 if call is lock_any else 0):
        with contextlib.suppress(MutexDestroyed):
            call(mutex, cls.__new__(cls))[1].drop_safe()
    with pytest.raises(MutexDestroyed):
        call(cls.__new__(cls))
    with pytest.raises(MutexDestroyed):
        lock_all(mutex, cls.__new__(cls))
    assert free(mutex)


@pytest.mark.parametrize("timeout", [-1, float("nan"), "soon"])
def test_a_timeout_that_is_none(call: Any, cls: Any, timeout: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        call(cls(1), timeout=timeout)


# --- all or nothing ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("timeout", [0, SOON])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_timeout_leaves_nothing_locked(kind: str, timeout: float, position: int) -> None:
    mutexes: list[Any] = list(mixed())
    held = make(kind)
    mutexes.insert(position, held)
    with held_by_child(held) as holder:
        with pytest.raises(LockTimeout) as caught:
            lock_all(*mutexes, timeout=timeout)
        assert caught.value.timeout == timeout
        assert caught.value.owner_pid == holder.pid
        mutexes.remove(held)
        assert free(*mutexes)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_destroyed_one_leaves_nothing_locked(call: Any, cls: Any, position: int) -> None:
    mutexes: list[Any] = list(mixed())
    gone = cls(0)
    mutexes.insert(position, gone)
    destroy(gone)
    if call is lock_all:
        with pytest.raises(MutexDestroyed):
            lock_all(*mutexes)
    else:
        with pytest.raises(MutexDestroyed):
            for _ in mutexes:  # until it is the first to be looked at
                lock_any(*mutexes)[1].drop_safe()
    mutexes.remove(gone)
    assert free(*mutexes)


def test_destroyed_while_waited_for(call: Any, cls: Any) -> None:
    one, other = cls(1), cls(2)
    with held_by_child(one), held_by_child(other), Child(waits_for, call, [one, other]) as child:
        child.hear()
        wait_until(lambda: waiters(one) + waiters(other) > 0, "it waits")
        destroy(one)
        destroy(other)
        assert child.hear() == "destroyed"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_itwaits_for_the_last_of_them(cls: Any, method: str) -> None:
    mutexes = [cls(number) for number in range(4)]
    with held_by_child(mutexes[2]) as holder, Child(waits_for, lock_all, mutexes, method=method) as child:
        child.hear()
        wait_for_waiter(mutexes[2])
        holder.say("release")
        assert child.hear() == "had"
        assert not free(mutexes[0])
        child.say("release")
        assert child.hear() == "released"
    assert free(*mutexes)


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_leaves_nothing_locked(call: Any, kind: str) -> None:
    first, last = sorted((make(kind), make(kind)), key=lambda mutex: mutex.slot_index)
    with held_by_child(first) as holder, held_by_child(last) as second, Child(waits_for, call, [first, last]) as child:
        child.hear()
        wait_for_waiter(first)
        if call is lock_all:
            holder.say("release")
            wait_for_waiter(last)
        child.signal(signal.SIGINT)
        assert child.hear() == "interrupted"
        assert waiters(first) == waiters(last) == 0
        if call is lock_any:
            holder.say("release")
        second.say("release")
        wait_until(lambda: free(first, last), "both are free")
        child.say("end")
        assert child.hear() == "ended"


def test_two_who_name_them_in_opposite_orders_do_not_block_each_other(cls: Any) -> None:
    mutexes = [cls(0), KMutex(0), FastMutex(0), cls(0)]
    rounds = 2000
    children = [Child(_shuffled, mutexes, seed, rounds, method="fork") for seed in range(3)]
    for child in children:
        with child:
            assert child.hear() == "done"
    assert [mutex.peek() for mutex in mutexes] == [rounds * len(children)] * len(mutexes)


def _shuffled(line: Line, mutexes: list[Any], seed: int, rounds: int) -> None:
    chance = random.Random(seed)
    for _ in range(rounds):
        chance.shuffle(mutexes)
        with lock_all(*mutexes) as guards:
            for guard in guards:
                guard.value += 1
    line.say("done")


@pytest.mark.usefixtures("grt")
def test_mutexes_of_two_pools(grt: str) -> None:
    named, own = Grt.register_fast_mutex("named", 1), FastMutex(2)
    with Child(_swap, named, own) as child:
        for _ in range(500):
            with lock_all(own, named) as (of_own, of_named):
                of_own.value, of_named.value = of_named.value, of_own.value
        assert child.hear() == "done"
    kill_daemon(grt)
    with lock_all(named, own) as (of_named, of_own):
        assert {of_named.value, of_own.value} == {1, 2}


def _swap(line: Line, named: Any, own: Any) -> None:
    for _ in range(500):
        with lock_all(named, own) as (of_named, of_own):
            of_own.value, of_named.value = of_named.value, of_own.value
    line.say("done")


# --- dead owners ---


@pytest.mark.parametrize("kind", KINDS)
def test_dead_owners_are_told_of(call: Any, kind: str) -> None:
    dead, other = make(kind), FastMutex(0)
    with held_by_child(dead) as holder, held_by_child(other):
        with Worker(_abandoned, call, dead, other) as worker:
            wait_until(lambda: waiters(dead) + waiters(other) > 0, "it waits")
            holder.kill()
            if call is lock_any:
                assert worker.hear() == (0, holder.pid)
        if call is lock_all:
            return
    assert free(dead)


def _abandoned(line: Line, call: Any, dead: Any, other: Any) -> None:
    if call is lock_any:
        index, guard = lock_any(dead, other)
        line.say((index, guard.abandoned_by))
        guard.drop_safe()
    else:
        with pytest.raises(LockTimeout):
            lock_all(dead, other, timeout=SOON)


def test_all_of_a_dead_owner(cls: Any) -> None:
    mutexes = [cls(1), CriticalSection(), cls([1])]
    with Child(_hold_all, mutexes) as child:
        child.hear()
        child.kill()
        with lock_all(*mutexes, timeout=30) as guards:
            assert [guard.abandoned for guard in guards] == [True] * 3
            assert [guard.abandoned_by for guard in guards] == [child.pid] * 3
            assert guards[0].value == 1
            assert guards[2].value == [1]
    with lock_all(*mutexes) as guards:
        assert not any(guard.abandoned for guard in guards)


def _hold_all(line: Line, mutexes: list[Any]) -> None:
    with lock_all(*mutexes) as guards:
        guards[0].value = 2
        guards[2].value.append(2)
        line.say()
        line.hear()


# --- IRQL ---


def test_irql(call: Any) -> None:
    k, fast, section = mixed()
    with raise_irql(2):
        for mutexes in ((k, section), (fast, k), (section,)):
            with pytest.raises(IrqlTooHigh):
                call(*mutexes)
        with pytest.raises(IrqlTooHigh):
            call(k, fast, timeout=0)
        if call is lock_all:
            with lock_all(k, section, timeout=0) as (of_k, _):
                of_k.value = 5
            assert k.peek() == 5
        else:
            lock_any(k, section, timeout=0)[1].drop_safe()
    with raise_irql(3), pytest.raises(IrqlTooHigh):
        call(k, timeout=0)
    assert free(k, fast, section)


def test_leaving_at_too_high_a_level_releases_and_publishes_all() -> None:
    one, other, k = FastMutex(1), FastMutex(2), KMutex(3)
    raised = raise_irql(2)
    with pytest.raises(IrqlNotAPCLevel), lock_all(one, k, other) as guards:
        for guard in guards:
            guard.value *= 10
        raised.__enter__()
    raised.__exit__(None, None, None)
    assert (one.peek(), other.peek(), k.peek()) == (10, 20, 30)
    assert free(one, other, k)


def test_drop_safe_asks_first() -> None:
    one, k = FastMutex(1), KMutex(3)
    guards = lock_all(one, k)
    guards[0].value = guards[1].value = 5
    with raise_irql(2), pytest.raises(IrqlNotAPCLevel):
        guards.drop_safe()
    assert (one.peek(), k.peek()) == (1, 3)
    assert not free(one)
    guards.drop_safe()
    assert (one.peek(), k.peek()) == (5, 5)
    assert free(one, k)


def test_in_an_event_loop(call: Any) -> None:
    import asyncio

    mutex = KMutex(1)

    async def main() -> None:
        with pytest.raises(IrqlTooHigh):
            call(mutex)
        held = call(mutex, timeout=0)
        (held if call is lock_all else held[1]).drop_safe()

    asyncio.run(main())
    assert free(mutex)
