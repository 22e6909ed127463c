"""The IRQL of a thread: every rule, in every kind of mutex, and the event loop's level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from processes import in_thread

from wdkmutex_shm import (
    CriticalSection,
    FastMutex,
    Irql,
    IrqlNotAPCLevel,
    IrqlTooHigh,
    KMutex,
    current_irql,
    raise_irql,
)

PASSIVE, APC, DISPATCH = Irql.PASSIVE, Irql.APC, Irql.DISPATCH

pytestmark = pytest.mark.usefixtures("passive")


def allowed(level: int, work: Callable[[], Any]) -> bool:
    """Whether the operation is allowed at the level."""
    with raise_irql(level):
        try:
            result = work()
        except IrqlTooHigh as error:
            assert error.level == level
            assert error.limit is not None
            assert error.limit < level
            assert error.operation
            assert "worker thread" in str(error) or "lower the IRQL first" in str(error)
            return False
        del result
        return True


def highest(work: Callable[[], Any]) -> int:
    """The highest level at which the operation is allowed; it must be allowed at all below."""
    answers = [allowed(level, work) for level in range(16)]
    assert answers == sorted(answers, reverse=True)
    return sum(answers) - 1


def test_levels() -> None:
    assert current_irql() == PASSIVE
    assert type(current_irql()) is Irql
    with raise_irql(APC), raise_irql(APC), raise_irql(DISPATCH):
        assert current_irql() is DISPATCH
        with raise_irql(9):
            assert current_irql() == 9
        assert current_irql() is DISPATCH
    assert current_irql() is PASSIVE


def test_the_level_cannot_be_lowered_below_the_current() -> None:
    with raise_irql(DISPATCH):
        with pytest.raises(IrqlTooHigh) as caught, raise_irql(APC):
            pass
        assert (caught.value.level, caught.value.limit) == (2, 1)
        assert current_irql() is DISPATCH
    with FastMutex(0).lock(), pytest.raises(IrqlTooHigh), raise_irql(PASSIVE):
        pass


@pytest.mark.parametrize("level", [-1, 16, 100])
def test_levels_that_do_not_exist(level: int) -> None:
    with pytest.raises(ValueError):
        raise_irql(level)


def test_exception_restores_the_level() -> None:
    with pytest.raises(ZeroDivisionError), raise_irql(5):
        raise ZeroDivisionError
    assert current_irql() == PASSIVE


def test_one_raise_used_twice() -> None:
    raised = raise_irql(APC)
    with raised, raised:
        assert current_irql() == APC
    assert current_irql() == PASSIVE


def test_creating() -> None:
    assert highest(lambda: KMutex(0)) == 15
    assert highest(CriticalSection) == 15
    assert highest(lambda: FastMutex(0)) == DISPATCH


@pytest.mark.parametrize("contended", [False, True])
def test_locking(contended: bool) -> None:
    fast, k, section = FastMutex(0), KMutex(0), CriticalSection()
    holders: list[Any] = []
    if contended:

        def hold() -> None:
            # A thread that ends while it holds would be taken over from; these are kept by a living one.
            section.enter()
            holders.extend([fast.lock(), k.lock()])

        _with_thread_holding(hold, lambda: _check_locking(fast, k, section, 0))
    else:
        _check_locking(fast, k, section, 1)


def _with_thread_holding(hold: Callable[[], None], check: Callable[[], None]) -> None:
    import threading

    held, done = threading.Event(), threading.Event()

    def work() -> None:
        hold()
        held.set()
        done.wait(30)

    thread = threading.Thread(target=work)
    thread.start()
    assert held.wait(30)
    try:
        check()
    finally:
        done.set()
        thread.join(30)


def _check_locking(fast: Any, k: Any, section: Any, timeout: float) -> None:
    def quietly(work: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        def run() -> Any:
            try:
                return work(*args)
            except TimeoutError:
                return None

        return run

    blocking = timeout or 0.001
    for mutex in (fast, k):
        assert highest(quietly(mutex.lock, blocking)) == APC
        assert highest(quietly(mutex.fetch_add, 1, blocking)) == APC
        assert highest(quietly(mutex.replace, 1, blocking)) == APC
    assert highest(fast.try_lock) == APC
    assert highest(quietly(lambda: fast.lock(0))) == APC
    assert highest(quietly(lambda: fast.fetch_add(1, 0))) == APC
    assert highest(k.try_lock) == DISPATCH
    assert highest(quietly(lambda: k.lock(0))) == DISPATCH
    assert highest(quietly(lambda: k.fetch_add(1, 0))) == DISPATCH

    def enter(*args: Any) -> Callable[[], Any]:
        def run() -> None:
            if section.acquire(*args):
                section.leave()

        return run

    assert highest(enter(True, blocking)) == APC
    assert highest(enter(False)) == DISPATCH
    assert highest(enter(True, 0)) == DISPATCH
    with raise_irql(DISPATCH), pytest.raises(IrqlTooHigh), section:
        pass


def test_unlimited_lock_is_a_blocking_one() -> None:
    for mutex in (FastMutex(0), KMutex(0)):
        assert highest(mutex.lock) == APC
        assert highest(mutex.fetch_add) == APC


def test_recursive_lock_follows_the_rules() -> None:
    k = KMutex(0)
    with k.lock(), raise_irql(DISPATCH):
        with pytest.raises(IrqlTooHigh):
            k.lock()
        with k.lock(0) as inner:
            assert inner.is_inner


def test_held_fast_mutex_means_apc() -> None:
    one, two = FastMutex(0), FastMutex(0)
    with one.lock():
        assert current_irql() is APC
        assert in_thread(current_irql) is PASSIVE
        with two.lock(), raise_irql(APC):
            assert current_irql() is APC
        assert current_irql() is APC
        one.peek()
    assert current_irql() is PASSIVE
    guard = one.try_lock()
    other = two.lock()
    del guard
    assert current_irql() is APC
    other.drop_safe()
    assert current_irql() is PASSIVE
    one.fetch_add(1)
    one.replace(2)
    assert current_irql() is PASSIVE
    with KMutex(0).lock(), CriticalSection():
        assert current_irql() is PASSIVE


def test_failed_lock_leaves_the_level() -> None:
    fast = FastMutex(0)
    with fast.lock():
        with pytest.raises(RuntimeError):
            fast.lock()
        assert in_thread(lambda: (fast.try_lock(), current_irql())) == (None, PASSIVE)
    assert current_irql() is PASSIVE


def test_release_restores_the_level_saved_at_lock() -> None:
    fast = FastMutex(0)
    with raise_irql(APC):
        with fast.lock():
            assert current_irql() is APC
        assert current_irql() is APC
    guard = fast.lock()
    raised = raise_irql(APC)
    raised.__enter__()
    guard.drop_safe()
    assert current_irql() is APC
    raised.__exit__(None, None, None)
    assert current_irql() is PASSIVE


@pytest.mark.parametrize("level", range(16))
def test_drop_safe(level: int) -> None:
    k, fast = KMutex(0), FastMutex(0)
    guard = k.lock()
    guard.value = 1
    with raise_irql(level):
        if level <= DISPATCH:
            guard.drop_safe()
            assert k.peek() == 1
        else:
            with pytest.raises(IrqlTooHigh) as caught:
                guard.drop_safe()
            assert caught.value.level == level
            assert not guard.released
            assert k.peek() == 0
    if not guard.released:
        guard.drop_safe()
    guard = fast.lock()
    guard.value = 1
    if level == PASSIVE:
        guard.drop_safe()  # a held FastMutex is at APC
        return
    with raise_irql(level):
        if level == APC:
            guard.drop_safe()
            assert fast.peek() == 1
        else:
            with pytest.raises(IrqlNotAPCLevel) as refused:
                guard.drop_safe()
            assert refused.value.level == level
            assert not guard.released
            assert fast.peek() == 0
            assert fast.owner is not None
    if not guard.released:
        guard.drop_safe()
    assert current_irql() is PASSIVE


def test_leaving_a_with_too_high_releases_commits_and_tells() -> None:
    k, fast = KMutex(0), FastMutex(0)
    raised = raise_irql(DISPATCH)
    with pytest.raises(IrqlNotAPCLevel), fast.lock() as guard:
        guard.value = 1
        raised.__enter__()
    assert current_irql() is DISPATCH
    raised.__exit__(None, None, None)
    assert fast.peek() == 1
    assert fast.owner is None
    raised = raise_irql(DISPATCH)
    with k.lock() as guard:
        guard.value = 1
        raised.__enter__()
    raised.__exit__(None, None, None)
    raised = raise_irql(3)
    with pytest.raises(IrqlTooHigh), k.lock() as guard:
        guard.value = 2
        raised.__enter__()
    raised.__exit__(None, None, None)
    assert k.peek() == 2
    assert k.owner is None
    # An exception on its way out is not hidden behind that.
    raised = raise_irql(3)
    with pytest.raises(ZeroDivisionError), k.lock():
        raised.__enter__()
        raise ZeroDivisionError
    raised.__exit__(None, None, None)
    assert current_irql() is PASSIVE


def test_section_is_left_at_any_level() -> None:
    section = CriticalSection()
    section.enter()
    with raise_irql(15):
        section.leave()
    assert not section.locked()


def test_rules_come_first() -> None:
    # Checked before anything else happens: a thread that may not ask is not told whether the lock is its own.
    fast = FastMutex(0)
    with fast.lock(), raise_irql(DISPATCH):
        for again in (fast.lock, fast.try_lock):
            with pytest.raises(IrqlTooHigh):
                again()
