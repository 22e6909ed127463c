"""Generators that are suspended in a ``with`` and collected in another thread: an exception leaves it, so T stands."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from processes import Line, Worker, in_child, in_thread, wait_until

from wdkmutex_shm import FastMutex, KMutex, NotOwned, lock_all


@pytest.fixture(params=[KMutex, FastMutex])
def cls(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is to be told where nobody listens."""
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    yield
    assert [unraisable.exc_value for unraisable in told] == []


def changes(mutex: Any, committed: int, changed: int) -> Iterator[Any]:
    with mutex.lock() as guard:
        guard.value = committed
        guard.commit()
        guard.value = changed
        yield guard
        raise AssertionError("it is never resumed")


def changes_in_a_list(mutex: Any) -> Iterator[Any]:
    with mutex.lock() as guard:
        guard.value.append(1)
        yield guard


def changes_several(mutexes: list[Any]) -> Iterator[Any]:
    with lock_all(*mutexes) as guards:
        for guard in guards:
            guard.value = 5
        yield guards


def is_free(mutex: Any) -> bool:
    return bool(in_child(_tries, mutex))


def _tries(mutex: Any) -> bool:
    guard = mutex.try_lock()
    if guard is not None:
        guard.drop_safe()
    return guard is not None


def _begins(line: Line, generators: list[Any], other: Any) -> None:
    """Run the generators up to their ``with``, and lock something once they are gone."""
    for at in range(len(generators)):
        next(generators[at])
    line.say()
    line.hear()
    other.replace(1)
    line.say()
    line.hear()


def collect(generators: list[Any]) -> None:
    """Collect what only a cycle keeps, in this thread."""
    cycle: list[Any] = [generators.pop()]
    cycle.append(cycle)
    del cycle
    gc.collect()


def test_what_was_set_is_rolled_back(cls: Any) -> None:
    mutex, other = cls(0), cls(0)
    generators = [changes(mutex, 1, 2)]
    with Worker(_begins, generators, other) as worker:
        worker.hear()
        collect(generators)
        assert not is_free(mutex)
        worker.say()
        worker.hear()
        assert is_free(mutex)
        assert mutex.peek() == 1
        worker.say()
    assert mutex.peek() == 1


def test_a_container_that_was_changed_in_place(cls: Any) -> None:
    mutex, other = cls([]), cls(0)
    generators = [changes_in_a_list(mutex)]
    with Worker(_begins, generators, other) as worker:
        worker.hear()
        collect(generators)
        worker.say()
        worker.hear()
        assert is_free(mutex)
        assert mutex.peek() == []
        worker.say()


def test_of_the_main_thread(cls: Any) -> None:
    """It is woken for that."""
    mutex = cls(0)
    generators = [changes(mutex, 1, 2)]
    next(generators[0])
    in_thread(collect, generators)
    wait_until(lambda: mutex.owner is None, "the main thread has released it")
    assert mutex.peek() == 1


def test_several(cls: Any) -> None:
    mutexes, other = [cls(0), cls(0)], cls(0)
    generators = [changes_several(mutexes)]
    with Worker(_begins, generators, other) as worker:
        worker.hear()
        collect(generators)
        worker.say()
        worker.hear()
        assert all(is_free(mutex) for mutex in mutexes)
        assert [mutex.peek() for mutex in mutexes] == [0, 0]
        worker.say()


def test_an_inner_lock(cls: Any) -> None:
    """Only what was done in it is undone; the outer one commits."""
    if cls is FastMutex:
        pytest.skip("not recursive")
    mutex = cls(0)

    def inner() -> Iterator[None]:
        with mutex.lock() as guard:
            guard.value = 9
            yield

    with mutex.lock() as guard:
        guard.value = 3
        generators = [inner()]
        next(generators[0])
        in_thread(collect, generators)
        other = KMutex(0)
        other.replace(1)
        assert guard.value == 3
    wait_until(lambda: mutex.owner is None, "it is released")
    assert mutex.peek() == 3


def test_its_thread_ends_first(cls: Any) -> None:
    mutex = cls(0)
    generators = [changes(mutex, 1, 2)]
    in_thread(lambda: next(generators[0]) and None)
    collect(generators)
    with mutex.lock(timeout=30) as guard:
        assert guard.value == 1


def test_a_guard_that_somebody_keeps(cls: Any) -> None:
    """It holds the lock on, and its own thread decides: what it commits is committed; dropped, it rolls back."""
    for way, expected in (("commits", 2), ("drops", 1)):
        mutex = cls(0)
        generators = [changes(mutex, 1, 2)]
        guard = next(generators[0])
        in_thread(collect, generators)
        assert guard.value == 2
        assert not guard.released
        if way == "commits":
            guard.drop_safe()
        del guard
        assert is_free(mutex)
        assert mutex.peek() == expected


def test_another_exception_in_another_thread_is_told(cls: Any) -> None:
    """Nobody but the collector leaves a ``with`` elsewhere in silence."""
    mutex = cls(0)
    generators = [changes(mutex, 1, 2)]
    next(generators[0])

    def throws() -> None:
        with pytest.raises(NotOwned) as caught:
            generators[0].throw(ValueError("elsewhere"))
        assert isinstance(caught.value.__context__, ValueError)
        caught.value.__traceback__ = None

    in_thread(throws)
    generators.clear()
    gc.collect()
    wait_until(lambda: mutex.owner is None, "it is released")
    assert mutex.peek() == 1


def test_a_coroutine(cls: Any) -> None:
    """A task that is destroyed in another thread than its loop's."""
    mutex = cls(0)
    kept: list[Any] = []

    async def works() -> None:
        async with mutex.lock_async() as guard:
            guard.value = 1
            guard.commit()
            guard.value = 2
            await asyncio.Event().wait()

    def runs(line: Line) -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(works())
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.run_until_complete(asyncio.sleep(0.01))
        kept.extend([task.get_coro()])
        del task
        loop._ready.clear()  # type: ignore[attr-defined]
        line.say()
        line.hear()
        KMutex(0).replace(1)
        line.say()
        loop.close()

    with Worker(runs) as worker:
        worker.hear()
        kept.clear()
        gc.collect()
        worker.say()
        worker.hear()
    wait_until(lambda: mutex.owner is None, "it is released")
    assert mutex.peek() == 1
