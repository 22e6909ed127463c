"""Circles through ``lock_all`` and ``lock_any``: told where nobody can go on, and nowhere else."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pytest
from processes import Child, Line, Worker, wait_until

from wdkmutex_shm import CriticalSection, DeadlockError, FastMutex, KMutex, LockTimeout, lock_all, lock_any

LONG = 30.0


@pytest.fixture(params=[KMutex, FastMutex])
def cls(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=[Child, Worker])
def actor(request: pytest.FixtureRequest) -> Any:
    """Processes, or threads of this one."""
    return request.param


def _acts(line: Line, held: list[Any], calls: list[tuple[Any, list[Any]]]) -> None:
    """Hold some, then call ``lock``, ``lock_any`` or ``lock_all`` for others when told, and tell what became of it."""
    with contextlib.ExitStack() as stack:
        for mutex in held:
            stack.enter_context(mutex.lock())
        line.say("holds")
        for call, wanted in calls:
            line.hear()
            try:
                if call == "lock":
                    guards = [wanted[0].lock(LONG)]
                elif call == "lock_any":
                    guards = [lock_any(*wanted, timeout=LONG)[1]]
                else:
                    guards = list(lock_all(*wanted, timeout=LONG))
            except DeadlockError as error:
                line.say(("deadlock", str(error), [(link.holds, link.waits_for) for link in error.chain]))
            else:
                line.say("had")
                for guard in guards:
                    guard.drop_safe()
    line.say("released")


def _shown(*mutexes: Any, count: int = 1) -> None:
    wait_until(lambda: all(len(mutex.waiters()) >= count for mutex in mutexes), "they are seen to wait")


@pytest.mark.parametrize("last", ["lock_any", "lock"])
def test_all_of_any_are_held_by_one_that_waits(cls: Any, actor: Any, last: str) -> None:
    """Whoever of the two waits last closes the circle, and is told; the other goes on."""
    a, b, c = cls(0), cls(0), cls(0)
    with (
        actor(_acts, [a], [("lock_any", [b, c])]) as one,
        actor(_acts, [b, c], [("lock", [a])]) as other,
    ):
        one.hear()
        other.hear()
        first, second = (other, one) if last == "lock_any" else (one, other)
        first.say()
        _shown(*([a] if last == "lock_any" else [b, c]))
        second.say()
        told = second.hear()
        assert told[0] == "deadlock"
        assert len(told[2]) == 2
        assert "waits for any of several mutexes" in told[1]
        assert second.hear() == "released"
        assert first.hear() == "had"
        assert first.hear() == "released"


def test_one_of_any_may_still_come(cls: Any, actor: Any) -> None:
    """As long as one of them is held by a thread that works, nobody is told; once that waits, too, it is told."""
    a, b, c = cls(0), cls(0), cls(0)
    with (
        actor(_acts, [a], [("lock_any", [b, c])]) as one,
        actor(_acts, [b], [("lock", [a])]) as two,
        actor(_acts, [c], [("lock", [a])]) as three,
    ):
        for each in (one, two, three):
            each.hear()
        one.say()
        _shown(b, c)
        two.say()
        _shown(a)
        assert one.silent(0.4)
        assert two.silent(0.0)
        three.say()
        told = three.hear()
        assert told[0] == "deadlock"
        assert three.hear() == "released"
        assert [one.hear(), one.hear()] == ["had", "released"]
        assert [two.hear(), two.hear()] == ["had", "released"]


def test_one_of_any_that_is_released(cls: Any, actor: Any) -> None:
    a, b, c = cls(0), cls(0), cls(0)
    with actor(_acts, [a], [("lock_any", [b, c])]) as one, actor(_acts, [b], [("lock", [a])]) as two:
        one.hear()
        two.hear()
        with c.lock():
            one.say()
            _shown(b, c)
            two.say()
            _shown(a)
            assert one.silent(0.3)
        assert [one.hear(), one.hear()] == ["had", "released"]
        assert [two.hear(), two.hear()] == ["had", "released"]


def test_nested_lock_all(cls: Any, actor: Any) -> None:
    """What it holds already is given back by who is told."""
    first, a, b = cls(0), cls(0), cls(0)
    with actor(_acts, [first], [("lock_all", [a, b])]) as one, actor(_acts, [b], [("lock", [first])]) as two:
        one.hear()
        two.hear()
        two.say()
        _shown(first)
        one.say()
        told = one.hear()
        assert told[0] == "deadlock"
        assert one.hear() == "released"
        assert [two.hear(), two.hear()] == ["had", "released"]
    with lock_all(first, a, b, timeout=LONG):
        pass


def test_who_waits_for_others_in_a_circle_is_not_told(cls: Any, actor: Any) -> None:
    a, b, c = cls(0), cls(0), cls(0)
    with (
        actor(_acts, [c], [("lock_any", [a, b])]) as outside,
        actor(_acts, [a], [("lock", [b])]) as one,
        actor(_acts, [b], [("lock", [a])]) as two,
    ):
        for each in (outside, one, two):
            each.hear()
        one.say()
        _shown(b)
        two.say()
        outside.say()
        assert two.hear()[0] == "deadlock"
        assert two.hear() == "released"
        assert {one.hear(), outside.hear()} == {"had"}
        assert {one.hear(), outside.hear()} == {"released"}


def test_a_wait_for_a_value_is_no_wait_for_a_lock(cls: Any) -> None:
    """Anybody may commit it, whoever holds what."""
    a, b = cls(0), cls(0)

    def waits(line: Line) -> None:
        with a.lock():
            line.say()
            line.say(b.wait_for(bool, LONG))

    with Worker(waits) as worker:
        worker.hear()
        with b.lock() as guard:
            _shown(b)
            with pytest.raises(LockTimeout):
                a.lock(timeout=0.4)
            guard.value = 1
        assert worker.hear() == 1


def test_a_section_among_them(actor: Any) -> None:
    section, a = CriticalSection(), KMutex(0)

    def enters(line: Line) -> None:
        with section:
            line.say()
            line.hear()
            line.say("had" if section is lock_any(section, a)[1].mutex else "?")
            with pytest.raises(DeadlockError), a.lock():
                pass
            line.say("told")

    with actor(enters) as one, actor(_acts, [a], [("lock_any", [section])]) as two:
        one.hear()
        two.hear()
        two.say()
        _shown(section)
        one.say()
        assert one.hear() == "had"  # its own section is free to it
        assert one.hear() == "told"
        assert [two.hear(), two.hear()] == ["had", "released"]


def test_a_circle_of_many(cls: Any) -> None:
    """Each waits for any of the next two: one is told, and then another as long as there is a circle."""
    count = 5
    mutexes = [cls(0) for _ in range(count)]
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(
                Child(_acts, [mutexes[at]], [("lock_any", [mutexes[(at + 1) % count], mutexes[(at + 2) % count]])])
            )
            for at in range(count)
        ]
        for child in children:
            child.hear()
        for child in children:
            child.say()
        found = [child.hear() for child in children]
        told = list(itertools.filterfalse(lambda what: what == "had", found))
        assert 1 <= len(told) <= 2
        assert all(child.hear() == "released" for child in children)
