"""KMutex: locked again by its holder; inner guards, their rollback, and the one-call operations inside a hold."""

from __future__ import annotations

import math
from typing import Any

import pytest
from processes import in_child, in_thread

from wdkmutex_shm import AlreadyOwned, FastMutex, KMutex, MutexDestroyed, NotOwned


def held(mutex: Any) -> bool:
    return mutex.owner is not None


def test_as_many_releases_as_locks() -> None:
    mutex = KMutex(0)
    guards = [mutex.lock() for _ in range(100)]
    assert [guard.is_inner for guard in guards] == [False] + [True] * 99
    for guard in guards:
        assert held(mutex)
        guard.drop_safe()
    assert not held(mutex)
    assert mutex.statistics().acquisitions == 1


def test_try_lock_is_recursive_too() -> None:
    mutex = KMutex(0)
    with mutex.lock(), mutex.lock(0) as second:
        third = mutex.try_lock()
        assert third is not None
        assert third.is_inner
        assert second.is_inner
        del third
    assert not held(mutex)


def test_inner_sees_what_is_not_committed() -> None:
    mutex = KMutex(1)
    with mutex.lock() as outer:
        outer.value = 2
        with mutex.lock() as inner:
            assert inner.value == 2
            inner.value = 3
        assert outer.value == 3
        assert mutex.peek() == 1
    assert mutex.peek() == 3
    assert mutex.statistics().commits == 1


def test_other_threads_wait_for_the_last_release() -> None:
    mutex = KMutex(1)
    with mutex.lock():
        with mutex.lock():
            pass
        assert in_thread(mutex.try_lock) is None
    assert in_thread(lambda: mutex.try_lock() is not None)


def test_exception_in_the_inner_with_undoes_only_that() -> None:
    mutex = KMutex(1)
    with mutex.lock() as outer:
        outer.value = 2
        with pytest.raises(ZeroDivisionError), mutex.lock() as inner:
            inner.value = 3
            raise ZeroDivisionError
        assert outer.value == 2
    assert mutex.peek() == 2


def test_exception_in_the_inner_with_of_an_untouched_outer() -> None:
    mutex = KMutex([1])
    with mutex.lock() as outer:
        with pytest.raises(ZeroDivisionError), mutex.lock() as inner:
            inner.value.append(2)
            raise ZeroDivisionError
        assert outer.value == [1]
    assert mutex.peek() == [1]
    assert mutex.statistics().commits == 0


def test_inner_container_is_rolled_back_to_the_outers() -> None:
    mutex = KMutex([1])
    with mutex.lock() as outer:
        outer.value.append(2)
        with pytest.raises(ZeroDivisionError), mutex.lock() as inner:
            inner.value.append(3)
            raise ZeroDivisionError
        assert outer.value == [1, 2]
    assert mutex.peek() == [1, 2]


def test_exception_in_the_outer_with_undoes_all() -> None:
    mutex = KMutex(1)
    with pytest.raises(ZeroDivisionError), mutex.lock() as outer:
        outer.value = 2
        with mutex.lock() as inner:
            inner.value = 3
        raise ZeroDivisionError
    assert mutex.peek() == 1


def test_savepoint_of_a_middle_guard_that_never_looked() -> None:
    mutex: KMutex[list[int]] = KMutex([])
    with mutex.lock() as outer:
        assert outer.value == []
        with pytest.raises(ZeroDivisionError), mutex.lock():
            with mutex.lock() as inmost:
                inmost.value.append(1)
            raise ZeroDivisionError
        assert outer.value == []
    assert mutex.peek() == []


def test_savepoint_with_changes_through_the_outer_guard() -> None:
    mutex: KMutex[list[int]] = KMutex([])
    with mutex.lock() as outer:
        outer.value.append(1)
        with pytest.raises(ZeroDivisionError), mutex.lock():
            outer.value.append(2)
            raise ZeroDivisionError
        assert outer.value == [1]
    assert mutex.peek() == [1]


def test_savepoints_nest() -> None:
    mutex = KMutex({"n": 0})
    with mutex.lock() as one:
        one.value["n"] = 1
        with pytest.raises(KeyError), mutex.lock() as two:
            two.value["n"] = 2
            with pytest.raises(ZeroDivisionError), mutex.lock() as three:
                three.value["n"] = 3
                raise ZeroDivisionError
            assert two.value == {"n": 2}
            with mutex.lock() as four:
                four.value["n"] = 4
            assert two.value == {"n": 4}
            raise KeyError
        assert one.value == {"n": 1}
    assert mutex.peek() == {"n": 1}


def test_rollback_and_commit_of_an_inner_guard() -> None:
    mutex = KMutex([0])
    with mutex.lock() as outer:
        outer.value.append(1)
        with mutex.lock() as inner:
            inner.value.append(2)
            inner.rollback()
            assert inner.value == [0, 1]
            inner.value.append(3)
            inner.commit()
            assert mutex.peek() == [0, 1, 3]
            inner.value.append(4)
            inner.rollback()
            assert inner.value == [0, 1, 3]
        outer.rollback()
        assert outer.value == [0, 1, 3]
    assert mutex.peek() == [0, 1, 3]


def test_release_out_of_order() -> None:
    mutex = KMutex(1)
    outer = mutex.lock()
    inner = mutex.lock()
    outer.value = 2
    outer.drop_safe()
    assert held(mutex)
    with pytest.raises(NotOwned):
        outer.value
    assert inner.value == 2
    inner.value = 3
    again = mutex.lock()
    assert again.is_inner
    inner.drop_safe()
    assert again.value == 3
    again.drop_safe()
    assert not held(mutex)
    assert mutex.peek() == 3


def test_outer_dropped_first() -> None:
    mutex = KMutex(1)
    outer = mutex.lock()
    inner = mutex.lock()
    outer.value = 2
    del outer
    assert held(mutex)
    del inner
    assert not held(mutex)
    assert mutex.peek() == 2


def test_two_handles_of_one_mutex() -> None:
    import pickle

    mutex = KMutex(1)
    other = pickle.loads(pickle.dumps(mutex))
    with mutex.lock() as outer, other.lock() as inner:
        assert inner.is_inner
        inner.value = 5
        assert outer.value == 5
    assert other.peek() == 5


def test_locked_again_after_it_was_destroyed() -> None:
    mutex = KMutex(1)
    with mutex.lock() as guard:
        assert mutex._vacate()
        with pytest.raises(MutexDestroyed):
            mutex.lock()
        with pytest.raises(MutexDestroyed):
            guard.value


def test_fast_mutex_is_not_recursive() -> None:
    mutex = FastMutex(1)
    with mutex.lock() as guard:
        for again in (mutex.lock, mutex.try_lock, mutex.fetch_add, lambda: mutex.replace(1), lambda: mutex.lock(0)):
            with pytest.raises(AlreadyOwned):
                again()
        guard.value = 2
    assert mutex.peek() == 2


@pytest.mark.parametrize("cls", [KMutex, FastMutex])
def test_one_call_operations(cls: Any) -> None:
    mutex = cls(5)
    assert mutex.fetch_add() == 5
    assert mutex.fetch_add(10) == 6
    assert mutex.fetch_add(-20, timeout=1) == 16
    assert mutex.replace(1) == -4
    assert mutex.replace(2, timeout=0) == 1
    assert mutex.peek() == 2
    assert not held(mutex)
    assert mutex.statistics().acquisitions == mutex.statistics().commits == 5


@pytest.mark.parametrize("cls", [KMutex, FastMutex])
def test_fetch_add_of_a_float(cls: Any) -> None:
    mutex = cls(1.5)
    assert mutex.fetch_add(0.25) == 1.5
    assert mutex.fetch_add() == 1.75
    assert mutex.peek() == 2.75
    assert type(mutex.peek()) is float
    assert mutex.fetch_add(math.inf) == 2.75


@pytest.mark.parametrize("cls", [KMutex, FastMutex])
def test_fetch_add_refuses(cls: Any) -> None:
    mutex = cls(5)
    for wrong in (1.5, "1", None, True):
        with pytest.raises(TypeError):
            mutex.fetch_add(wrong)
    for over in (2**64, 2**64 - 1, -(2**64)):
        with pytest.raises(OverflowError):
            mutex.fetch_add(over)
    assert mutex.peek() == 5
    assert not held(mutex)
    for other in ("text", [1], None, True):
        with pytest.raises(TypeError):
            cls(other).fetch_add(1)


def test_one_call_operations_inside_a_hold() -> None:
    mutex = KMutex(1)
    with mutex.lock() as guard:
        guard.value = 2
        assert mutex.fetch_add(3) == 2
        assert guard.value == 5
        assert mutex.replace(9) == 5
        assert guard.value == 9
        assert mutex.peek() == 1
        with pytest.raises(TypeError):
            mutex.replace("text")  # type: ignore[arg-type]
    assert mutex.peek() == 9
    assert mutex.statistics().commits == 1
    with pytest.raises(ZeroDivisionError), mutex.lock():
        mutex.fetch_add(1)
        raise ZeroDivisionError
    assert mutex.peek() == 9


def test_one_call_operations_are_rolled_back_with_the_inner_guard() -> None:
    mutex = KMutex(1)
    with mutex.lock() as guard:
        mutex.fetch_add(1)
        with pytest.raises(ZeroDivisionError), mutex.lock():
            mutex.fetch_add(1)
            raise ZeroDivisionError
        assert guard.value == 2


@pytest.mark.parametrize("cls", [KMutex, FastMutex])
def test_one_call_operations_while_another_holds(cls: Any) -> None:
    mutex = cls(1)
    with mutex.lock():

        def work() -> int:
            refused = 0
            for call, timeout in ((mutex.fetch_add, 0), (mutex.replace, 0.01)):
                try:
                    call(1, timeout)
                except TimeoutError:
                    refused += 1
            return refused

        assert in_thread(work) == 2
        assert in_child(work) == 2
    assert mutex.statistics().timeouts == 4
