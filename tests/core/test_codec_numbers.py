"""A T of int, whose way through the core is its own: remembered by the process that set it, added to without Python."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import Child, Line

from wdkmutex_shm import FastMutex, Guard, KMutex

LEAST, MOST, MOST_UNSIGNED = -(1 << 63), (1 << 63) - 1, (1 << 64) - 1
NUMBERS = st.one_of(st.integers(-200, 200), st.integers(LEAST, MOST_UNSIGNED), st.sampled_from([LEAST, MOST, MOST + 1]))


def perform(mutex: Any, how: str, n: int) -> Any:
    """One operation; returns what it returned, or the class of what it raised."""
    try:
        if how == "set":
            with mutex.lock() as guard:
                guard.value = n
                return guard.value
        if how == "add":
            with mutex.lock() as guard:
                guard.value += n
            return None
        if how == "fetch_add":
            return mutex.fetch_add(n)
        if how == "replace":
            return mutex.replace(n)
        if how == "rollback":
            with mutex.lock() as guard:
                guard.value = n
                guard.rollback()
                return guard.value
        if how == "commit":
            with mutex.lock() as guard:
                guard.value = n
                guard.commit()
                guard.value = 0
                raise ZeroDivisionError
        with mutex.lock() as guard:
            return guard.value
    except (OverflowError, ZeroDivisionError) as error:
        return type(error)


def expected(value: int, how: str, n: int) -> tuple[int, Any]:
    """What T is after an operation, and what the operation returns."""
    fits = LEAST <= n <= MOST_UNSIGNED
    added = value + n
    if how == "set":
        return (n, n) if fits else (value, OverflowError)
    if how == "add":
        return (added, None) if LEAST <= added <= MOST_UNSIGNED else (value, OverflowError)
    if how == "fetch_add":
        return (added, value) if fits and LEAST <= added <= MOST_UNSIGNED else (value, OverflowError)
    if how == "replace":
        return (n, value) if fits else (value, OverflowError)
    if how == "commit":
        return (n, ZeroDivisionError) if fits else (value, OverflowError)
    return value, value


def _obey(line: Line, mutex: Any) -> None:
    while (order := line.hear()) is not None:
        line.say(perform(mutex, *order))


@pytest.fixture(scope="module", params=[KMutex, FastMutex])
def shared(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any, Child]]:
    mutex = request.param(0)
    with Child(_obey, mutex) as child:
        yield mutex, pickle.loads(pickle.dumps(mutex)), child
        child.say(None)


OPERATIONS = st.tuples(
    st.integers(0, 2),
    st.sampled_from(["set", "add", "fetch_add", "replace", "rollback", "commit", "read"]),
    NUMBERS,
)


@given(operations=st.lists(OPERATIONS, min_size=1, max_size=25))
@settings(max_examples=60, deadline=None)
def test_two_processes_and_two_handles_agree(
    shared: tuple[Any, Any, Child], operations: list[tuple[int, str, int]]
) -> None:
    mutex, second, child = shared
    mutex.replace(0)
    value = 0
    for who, how, n in operations:
        if who == 2:
            child.say((how, n))
            result = child.hear()
        else:
            result = perform((mutex, second)[who], how, n)
        value, due = expected(value, how, n)
        assert result == due
        assert mutex.peek() == value


@pytest.mark.parametrize("cls", [KMutex, FastMutex])
def test_what_was_remembered_is_not_taken_for_the_commit_of_another(cls: Any) -> None:
    mutex = cls(5)
    for how in ("guard", "fetch_add", "replace"):
        with mutex.lock() as guard:
            guard.value = 5
        with Child(_change, mutex, how) as child:
            child.hear()
        with mutex.lock() as guard:
            assert guard.value == 6


def _change(line: Line, mutex: Any, how: str) -> None:
    if how == "guard":
        with mutex.lock() as guard:
            guard.value += 1
    elif how == "fetch_add":
        mutex.fetch_add(1)
    else:
        mutex.replace(6)
    line.say()


@pytest.mark.parametrize("cls", [KMutex, FastMutex])
def test_int_subclasses_and_bools_are_refused_by_fetch_add(cls: Any) -> None:
    mutex = cls(1)
    for wrong in (True, 1.0, "1", None):
        with pytest.raises(TypeError):
            mutex.fetch_add(wrong)
    assert mutex.peek() == 1
    assert not mutex.statistics().commits


@pytest.mark.parametrize("cls", [KMutex, FastMutex])
def test_every_way_to_enter_and_leave(cls: Any) -> None:
    mutex = cls(0)
    with ExitStack() as stack:
        guard = stack.enter_context(mutex.lock())
        guard.value = 1
    assert guard.released
    assert mutex.peek() == 1
    guard = mutex.lock()
    assert guard.__enter__() is guard
    guard.value = 2
    assert not guard.__exit__(None, None, None)
    assert mutex.peek() == 2
    guard = Guard.__enter__(mutex.lock())
    guard.value = 3
    Guard.__exit__(guard, KeyError, KeyError(), None)
    assert mutex.peek() == 2
    with pytest.raises(KeyError), contextlib.ExitStack() as stack:
        stack.enter_context(mutex.lock()).value = 3
        raise KeyError
    assert mutex.peek() == 2


def test_a_guard_is_not_called() -> None:
    guard: Any = FastMutex(0).lock()
    for wrong in ((1,), (1, 2), (1, 2, 3, 4)):
        with pytest.raises(TypeError, match="with"):
            guard(*wrong)
    with pytest.raises(TypeError, match="with"):
        guard.__exit__(kind=None, error=None, traceback=None)
    assert not guard.released
    assert Guard.__exit__.__doc__
    assert Guard.__enter__.__doc__


@pytest.mark.parametrize("cls", [FastMutex, KMutex])
@pytest.mark.parametrize("refused", [1 << 64, -(1 << 63) - 1])
def test_an_int_that_is_refused_leaves_what_was_set_before(cls: Any, refused: int) -> None:
    mutex = cls(0)
    with mutex.lock() as guard:
        guard.value = 5
        with pytest.raises(OverflowError):
            guard.value = refused
        assert guard.value == 5
    assert mutex.peek() == 5
    with mutex.lock() as guard:
        guard.value += 1
        with pytest.raises(OverflowError):
            guard.value *= 1 << 64
        guard.commit()
        assert mutex.peek() == 6


def test_a_sum_that_does_not_fit_leaves_what_was_added_before() -> None:
    mutex = KMutex(0)
    with mutex.lock():
        mutex.fetch_add(7)
        with pytest.raises(OverflowError):
            mutex.fetch_add((1 << 64) - 1)
    assert mutex.peek() == 7
