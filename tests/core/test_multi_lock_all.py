"""lock_all: the guards, and what is published, together or not at all."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import pytest
from multi import free

from wdkmutex_shm import (
    CriticalSection,
    Guard,
    Guards,
    MutexBusy,
    NotOwned,
    PagedPoolAllocFailed,
    SectionGuard,
    lock_all,
    lock_any,
)
from wdkmutex_shm.memory import (
    data_segments,
)

LARGE = "x" * 100_000


def test_the_guards_come_in_the_order_of_the_arguments(cls: Any) -> None:
    mutexes = [cls(number) for number in range(5)]
    for order in itertools.islice(itertools.permutations(mutexes), 0, 120, 7):
        with lock_all(*order) as guards:
            assert [guard.mutex for guard in guards] == list(order)
            assert [guard.value for guard in guards] == [mutex.peek() for mutex in order]
            assert not any(free(mutex) for mutex in mutexes)
        assert free(*mutexes)


def test_all_are_published(cls: Any) -> None:
    number, text, items, large = cls(1), cls("a"), cls([1]), cls(LARGE)
    with lock_all(number, text, items, large) as (of_number, of_text, of_items, of_large):
        of_number.value += 1
        of_text.value = "b"
        of_items.value.append(2)
        of_large.value = LARGE[1:]
        assert (number.peek(), text.peek(), items.peek(), large.peek()) == (1, "a", [1], LARGE)
    assert (number.peek(), text.peek(), items.peek(), large.peek()) == (2, "b", [1, 2], LARGE[1:])
    with lock_all(number, items) as (of_number, of_items):
        assert (of_number.value, of_items.value) == (2, [1, 2])
    assert [mutex.statistics().commits for mutex in (number, text, items, large)] == [1, 1, 1, 1]


@pytest.mark.parametrize("first", [1, "a", [1], LARGE])
@pytest.mark.parametrize("second", [1, "a", [1], LARGE])
def test_any_two_are_published(cls: Any, first: Any, second: Any) -> None:
    one, other = cls(first), cls(second)
    for round_ in range(3):
        with lock_all(other, one) as (of_other, of_one):
            of_one.value *= 2
            of_other.value *= 2
        assert (one.peek(), other.peek()) == (first * 2 ** (round_ + 1), second * 2 ** (round_ + 1))


def test_an_exception_rolls_all_back(cls: Any) -> None:
    one, other = cls(1), cls([1])
    with pytest.raises(ZeroDivisionError), lock_all(one, other) as (of_one, of_other):
        of_one.value = 2
        of_other.value.append(2)
        raise ZeroDivisionError
    assert (one.peek(), other.peek()) == (1, [1])
    assert free(one, other)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_one_that_cannot_be_encoded_stops_all(cls: Any, position: int) -> None:
    mutexes = [cls(1), cls(["a"]), cls(3)]
    mutexes.insert(position, cls([1]))
    before = [mutex.peek() for mutex in mutexes]
    with pytest.raises(TypeError), lock_all(*mutexes) as guards:
        for at, guard in enumerate(guards):
            if at == position:
                guard.value.append(object())
            else:
                guard.value *= 5
    assert [mutex.peek() for mutex in mutexes] == before
    assert free(*mutexes)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_one_without_room_stops_all(cls: Any, position: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mutexes = [cls(1), cls("a"), cls(3)]
    mutexes.insert(position, cls("small"))
    before = [mutex.peek() for mutex in mutexes]

    def refuse(*_: Any, **__: Any) -> int:
        raise PagedPoolAllocFailed("no room")

    with pytest.raises(PagedPoolAllocFailed), lock_all(*mutexes) as guards:
        for at, guard in enumerate(guards):
            guard.value = LARGE if at == position else guard.value * 2
        monkeypatch.setattr(data_segments, "make", refuse)
    monkeypatch.undo()
    assert [mutex.peek() for mutex in mutexes] == before
    assert free(*mutexes)
    with lock_all(*mutexes) as guards:
        guards[position].value = LARGE
    assert mutexes[position].peek() == LARGE


def test_a_handler_that_commits_in_the_midst(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making room for one T runs Python code, in which a signal handler may set another, and cannot commit it yet."""
    number, text = cls(1), cls("small")
    make_room = data_segments.make
    seen = []
    with lock_all(number, text) as (of_number, of_text):

        def meddle(*args: Any, **named: Any) -> int:
            if not seen:
                seen.append(True)
                of_number.value = 10
                with pytest.raises(MutexBusy):
                    of_number.commit()
                of_number.value = 20
            return make_room(*args, **named)

        monkeypatch.setattr(data_segments, "make", meddle)
        of_number.value = 2
        of_text.value = LARGE
    assert seen
    # What was under way is published last but for what was set during it.
    assert (number.peek(), text.peek()) == (20, LARGE)


def test_commit_publishes_and_keeps_the_locks(cls: Any) -> None:
    one, other = cls(1), cls([1])
    guards = lock_all(one, other)
    with guards as (of_one, of_other):
        of_one.value = 2
        of_other.value.append(2)
        guards.commit()
        assert (one.peek(), other.peek()) == (2, [1, 2])
        assert not free(one)
        of_one.value = 3
        of_other.value.append(3)
        guards.rollback()
        assert (of_one.value, of_other.value) == (2, [1, 2])
        of_other.value.append(4)
    assert (one.peek(), other.peek()) == (2, [1, 2, 4])
    for use in (guards.commit, guards.rollback, guards.drop_safe):
        with pytest.raises(NotOwned):
            use()


def test_a_guard_that_is_released_by_itself(cls: Any) -> None:
    one, other = cls(1), cls(2)
    with lock_all(one, other) as (of_one, of_other):
        of_one.value = 10
        of_other.value = 20
        of_one.drop_safe()
        assert (one.peek(), other.peek()) == (10, 2)
        assert free(one)
    assert (one.peek(), other.peek()) == (10, 20)


def test_guards_taken_out_stand_by_themselves(cls: Any) -> None:
    one, other = cls(1), cls(2)
    of_one, of_other = lock_all(one, other)
    of_one.value = 10
    del of_one
    assert free(one)
    assert not free(other)
    of_other.drop_safe()
    assert (one.peek(), other.peek()) == (10, 2)


def test_guards_that_are_never_bound(cls: Any) -> None:
    one, other, section = cls(1), cls(2), CriticalSection()
    lock_all(one, other, section)
    assert free(one, other, section)
    lock_any(section)
    assert free(section)
    guard = lock_any(section)[1]
    guard.drop_safe()
    with section:
        del guard
        assert section._recursion_count() == 1


def test_what_guards_look_like(cls: Any) -> None:
    one, section = cls(1), CriticalSection()
    guards = lock_all(one, section)
    assert isinstance(guards, Guards)
    assert isinstance(guards[0], Guard)
    assert isinstance(guards[1], SectionGuard)
    assert len(guards) == 2
    assert list(guards) == [guards[0], guards[-1]]
    assert "Guards of 2" in repr(guards)
    assert "SectionGuard of" in repr(guards[1])
    with pytest.raises(TypeError, match="pickle the mutexes"):
        pickle.dumps(guards)
    with pytest.raises(TypeError, match="pickle the section"):
        pickle.dumps(guards[1])
    for made_by_lock_all in (Guards, SectionGuard):
        with pytest.raises(TypeError, match="lock_all"):
            made_by_lock_all()
    with pytest.raises(TypeError):
        guards(1)  # type: ignore[operator]
    guards.drop_safe()
    assert guards[1].released
    assert "released" in repr(guards[1])
    assert free(one, section)
