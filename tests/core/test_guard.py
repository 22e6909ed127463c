"""The guard: when T is committed, when it is not, and who may use it."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import Any

import pytest
from processes import in_thread

from wdkmutex_shm import Guard, KMutex, MutexDestroyed, NotOwned


def free(mutex: Any) -> bool:
    """Whether another thread can have the lock now."""

    def work() -> bool:
        guard = mutex.try_lock()
        return guard is not None

    return bool(in_thread(work))


def test_leaving_commits(cls: Any) -> None:
    mutex = cls(1)
    with mutex.lock() as guard:
        assert guard.value == 1
        guard.value += 1
        assert mutex.peek() == 1
    assert mutex.peek() == 2
    assert free(mutex)
    assert guard.released


def test_exception_rolls_back(cls: Any) -> None:
    mutex = cls([1])
    with pytest.raises(ZeroDivisionError), mutex.lock() as guard:
        guard.value.append(2)
        guard.value = [3]
        raise ZeroDivisionError
    assert mutex.peek() == [1]
    assert mutex.statistics().commits == 0
    assert free(mutex)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_any_exception_rolls_back(cls: Any, error: type[BaseException]) -> None:
    mutex = cls(1)
    with pytest.raises(error), mutex.lock() as guard:
        guard.value = 2
        raise error
    assert mutex.peek() == 1


def test_with_swallows_nothing(cls: Any) -> None:
    guard = cls(1).lock()
    assert guard.__exit__(ValueError, ValueError(), None) is False
    assert guard.released


def test_dropped_guard_commits_and_releases(cls: Any) -> None:
    mutex = cls(1)
    guard = mutex.lock()
    guard.value = 5
    del guard
    assert mutex.peek() == 5
    assert free(mutex)


def test_guard_that_is_never_bound(cls: Any) -> None:
    mutex = cls(1)
    mutex.lock()
    assert free(mutex)


def test_guard_released_by_garbage_collection(cls: Any) -> None:
    mutex = cls(1)

    class Node:
        def __init__(self) -> None:
            self.me = self
            self.guard = mutex.lock()
            self.guard.value = 6

    node = Node()
    assert not free(mutex)
    del node
    gc.collect()
    assert mutex.peek() == 6
    assert free(mutex)


def test_drop_safe(cls: Any) -> None:
    mutex = cls(1)
    guard = mutex.lock()
    guard.value = 2
    guard.drop_safe()
    assert mutex.peek() == 2
    assert free(mutex)
    with pytest.raises(NotOwned, match="already released"):
        guard.drop_safe()


def test_drop_safe_inside_the_with(cls: Any) -> None:
    mutex = cls(1)
    with mutex.lock() as guard:
        guard.value = 2
        guard.drop_safe()
        with mutex.lock() as other:
            other.value += 1
    assert mutex.peek() == 3


def test_failed_drop_safe_releases(cls: Any) -> None:
    mutex = cls([1])
    guard = mutex.lock()
    guard.value.append({1})
    with pytest.raises(TypeError):
        guard.drop_safe()
    assert guard.released
    assert mutex.peek() == [1]
    assert free(mutex)


def test_value_that_cannot_be_committed_releases(cls: Any) -> None:
    mutex = cls([1])
    with pytest.raises(TypeError), mutex.lock() as guard:
        guard.value.append(object())
    assert mutex.peek() == [1]
    assert free(mutex)


def test_commit_and_rollback(cls: Any) -> None:
    mutex = cls({"a": 1})
    with mutex.lock() as guard:
        guard.value["b"] = 2
        guard.commit()
        assert mutex.peek() == {"a": 1, "b": 2}
        assert not free(mutex)
        guard.value["c"] = 3
        guard.rollback()
        assert guard.value == {"a": 1, "b": 2}
        guard.value["d"] = 4
    assert mutex.peek() == {"a": 1, "b": 2, "d": 4}
    assert mutex.statistics().commits == 2


def test_failed_commit_keeps_lock_and_old_t(cls: Any) -> None:
    mutex = cls({"a": 1})
    with mutex.lock() as guard:
        guard.value["b"] = {1, 2}
        with pytest.raises(TypeError):
            guard.commit()
        assert mutex.peek() == {"a": 1}
        assert not free(mutex)
        guard.rollback()
        assert guard.value == {"a": 1}


def test_commit_then_exception(cls: Any) -> None:
    mutex = cls(1)
    with pytest.raises(ZeroDivisionError), mutex.lock() as guard:
        guard.value = 2
        guard.commit()
        guard.value = 3
        raise ZeroDivisionError
    assert mutex.peek() == 2


def test_nothing_is_written_when_nothing_changed(cls: Any) -> None:
    firsts: list[Any] = [1, "text", [1, [2]], {"a": {}}]
    for first in firsts:
        mutex = cls(first)
        with mutex.lock():
            pass
        with mutex.lock() as guard:
            assert guard.value == first
        with mutex.lock() as guard:
            guard.commit()
            guard.rollback()
        assert mutex.statistics().commits == 0


def test_change_in_place(cls: Any) -> None:
    mutex = cls({"list": [1], "map": {}})
    with mutex.lock() as guard:
        guard.value["list"].append(2)
        guard.value["map"]["x"] = [None]
    assert mutex.peek() == {"list": [1, 2], "map": {"x": [None]}}
    with mutex.lock() as guard:
        guard.value["list"].append(3)
        guard.value["list"].pop()
    assert mutex.statistics().commits == 1


def test_value_kept_past_the_guard_is_only_a_copy(cls: Any) -> None:
    mutex = cls([1])
    with mutex.lock() as guard:
        kept = guard.value
    kept.append(2)
    with mutex.lock() as guard:
        assert guard.value == [1]
    assert mutex.peek() == [1]


def test_guard_kept_past_its_with(cls: Any) -> None:
    mutex = cls(1)
    with mutex.lock() as guard:
        pass
    for use in (
        lambda: guard.value,
        lambda: setattr(guard, "value", 9),
        guard.commit,
        guard.rollback,
        guard.drop_safe,
        guard.__enter__,
        lambda: str(guard),
        lambda: format(guard, ""),
    ):
        with pytest.raises(NotOwned, match="already released"):
            use()
    assert "released" in repr(guard)
    assert guard.mutex is mutex
    assert guard.abandoned is False
    assert mutex.peek() == 1


def test_text_forms(cls: Any) -> None:
    mutex = cls(1234.5)
    with mutex.lock() as guard:
        assert str(guard) == "1234.5"
        assert f"{guard:,.2f}" == "1,234.50"
        assert f"{guard}" == "1234.5"
        assert cls.__name__ in repr(guard)
        assert "held" in repr(guard)


def test_guard_is_made_by_lock_only() -> None:
    with pytest.raises(TypeError):
        Guard()
    with KMutex(1).lock() as guard:
        with pytest.raises(TypeError):
            pickle.dumps(guard)
        with pytest.raises(TypeError):
            copy.copy(guard)
        with pytest.raises(TypeError):
            type("Sub", (Guard,), {})


def test_guard_outlives_every_handle(cls: Any) -> None:
    guard = cls([1]).lock()
    gc.collect()
    guard.value.append(2)
    guard.commit()
    assert guard.mutex.peek() == [1, 2]
    guard.drop_safe()


def test_leaving_after_the_mutex_was_destroyed(cls: Any) -> None:
    mutex = cls(1)
    with mutex.lock():
        assert mutex._vacate()
    with pytest.raises(MutexDestroyed):
        mutex.peek()
    mutex = cls(1)
    with pytest.raises(MutexDestroyed), mutex.lock() as guard:
        guard.value = 2
        assert mutex._vacate()
    assert guard.released
