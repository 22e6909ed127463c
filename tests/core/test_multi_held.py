"""lock_all and lock_any where the thread holds one already, in other threads, and in forked children."""

from __future__ import annotations

import os
from typing import Any

import pytest
from multi import free
from processes import (
    in_thread,
)
from support import Fork

from wdkmutex_shm import (
    AlreadyOwned,
    CriticalSection,
    FastMutex,
    KMutex,
    NotOwned,
    lock_all,
    lock_any,
)


@pytest.fixture(params=[lock_all, lock_any])
def call(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_a_kmutex_of_mine_gives_an_inner_guard(call: Any) -> None:
    mine, other = KMutex(1), FastMutex(2)
    with mine.lock() as outer:
        outer.value = 10
        if call is lock_all:
            with lock_all(other, mine) as (of_other, inner):
                assert inner.is_inner
                assert inner.value == 10
                inner.value = 11
                of_other.value = 20
            assert (mine.peek(), other.peek()) == (1, 20)
            with pytest.raises(ZeroDivisionError), lock_all(other, mine) as (of_other, inner):
                inner.value = of_other.value = 12
                raise ZeroDivisionError
            assert outer.value == 11
            with lock_all(other, mine) as (of_other, inner):
                inner.value = of_other.value = 13
            guards = lock_all(mine, other)
            guards[0].value = guards[1].value = 14
            guards.commit()
            assert (mine.peek(), other.peek()) == (14, 14)
            guards.drop_safe()
            outer.value = 11
        else:
            index, inner = lock_any(mine)
            assert (index, inner.is_inner) == (0, True)
            inner.value = 11
            inner.drop_safe()
        assert not free(mine)
    assert mine.peek() == 11
    assert free(mine, other)


def test_a_fast_mutex_of_mine(call: Any) -> None:
    mine, other = FastMutex(1), FastMutex(2)
    with mine.lock(), pytest.raises(AlreadyOwned):
        for _ in range(2):
            result = call(mine, other)
            assert call is lock_any
            result[1].drop_safe()
    assert free(mine, other)


def test_a_section_of_mine_is_entered_again(call: Any) -> None:
    mine = CriticalSection()
    with mine:
        held = lock_all(mine)[0] if call is lock_all else lock_any(mine)[1]
        assert mine._recursion_count() == 2
        held.drop_safe()
        held.drop_safe()
        assert mine._recursion_count() == 1
    assert free(mine)


def test_other_threads_cannot_use_them(cls: Any) -> None:
    one, other = cls(1), cls(2)
    guards = lock_all(one, other)
    guards[0].value = guards[1].value = 5

    def use() -> int:
        refused = 0
        for work in (guards.commit, guards.rollback, guards.drop_safe, lambda: guards.__exit__(None, None, None)):
            with pytest.raises(NotOwned):
                work()
            refused += 1
        return refused

    assert in_thread(use) == 4
    assert (one.peek(), other.peek()) == (1, 2)
    guards.drop_safe()
    assert (one.peek(), other.peek()) == (5, 5)


def test_a_forked_child_neither_publishes_nor_releases(cls: Any) -> None:
    one, other = cls(1), cls(2)
    with lock_all(one, other) as (of_one, of_other):
        of_one.value = of_other.value = 5

        def child() -> bool:
            with pytest.raises(NotOwned):
                of_one.value
            return True

        assert Fork(child).result()
        assert Fork(lambda: _leave(of_one, of_other)).result()
        assert not free(one)
    assert (one.peek(), other.peek()) == (5, 5)


def _leave(*guards: Any) -> bool:
    for guard in guards:
        guard.__exit__(None, None, None)
    return True


def test_a_child_that_leaves_the_with_of_its_parent(cls: Any) -> None:
    one, other = cls(1), cls(2)
    pid = 0
    with lock_all(one, other) as (of_one, of_other):
        of_one.value = of_other.value = 5
        pid = os.fork()
        if pid == 0:
            of_one = of_other = None
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert (one.peek(), other.peek()) == (5, 5)
    assert (one.statistics().commits, other.statistics().commits) == (1, 1)
