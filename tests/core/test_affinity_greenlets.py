"""A greenlet owns what it locks as a task does: two of one thread are never inside one lock at once, silently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kinds import make
from processes import held_by_child, in_child, in_thread

from wdkmutex_shm import AlreadyOwned, CriticalSection, FastMutex, KMutex, LockTimeout, NotOwned, lock_all, lock_any, mp

greenlet = pytest.importorskip("greenlet")

ACQUIRE: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "KMutex.lock": (lambda: KMutex(0), lambda mutex: mutex.lock()),
    "KMutex.lock(30)": (lambda: KMutex(0), lambda mutex: mutex.lock(30)),
    "KMutex.lock_when": (lambda: KMutex(0), lambda mutex: mutex.lock_when(lambda _: True, 30)),
    "FastMutex.lock": (lambda: FastMutex(0), lambda mutex: mutex.lock()),
    "lock_all": (lambda: KMutex(0), lambda mutex: lock_all(mutex)),
    "lock_any": (lambda: KMutex(0), lambda mutex: lock_any(mutex)[1]),
    "lock_any of a section": (CriticalSection, lambda section: lock_any(section)[1]),
    "enter": (CriticalSection, lambda section: section.enter()),
    "with": (CriticalSection, lambda section: section.__enter__()),
    "acquire": (CriticalSection, lambda section: section.acquire()),
    "RLock.acquire": (mp.get_context("fork").RLock, lambda lock: lock.acquire()),
}


def resumed(work: Callable[[], Any]) -> Any:
    """Start a greenlet; it is resumed by `switch()`."""
    started = greenlet.greenlet(work)
    started.switch()
    return started


@pytest.mark.parametrize("how", ACQUIRE)
@pytest.mark.parametrize("main", [True, False])
def test_another_greenlet_of_the_thread_is_told(how: str, main: bool) -> None:
    make_it, acquire = ACQUIRE[how]
    lock = make_it()
    found: list[Any] = []

    def hold() -> None:
        kept = acquire(lock)
        greenlet.getcurrent().parent.switch()
        if hasattr(kept, "drop_safe"):
            kept.drop_safe()
        else:
            lock.release()

    def meet() -> None:
        with pytest.raises(AlreadyOwned, match="another task or greenlet"):
            acquire(lock)
        found.append(True)

    holder = resumed(hold)
    if main:
        meet()
    else:
        resumed(meet)
    assert found == [True]
    holder.switch()
    assert holder.dead
    kept = acquire(lock)
    if hasattr(kept, "drop_safe"):
        kept.drop_safe()
    else:
        lock.release()


@pytest.mark.parametrize("kind", ["k", "fast", "section"])
def test_what_the_main_greenlet_holds_is_no_others(kind: str) -> None:
    lock: Any = make(kind)
    acquire = lock.enter if kind == "section" else lock.lock
    refused = []

    def meet() -> None:
        with pytest.raises(AlreadyOwned):
            acquire()
        refused.append(True)

    kept = acquire()
    resumed(meet)
    assert refused == [True]
    if kind == "section":
        lock.leave()
    del kept


def test_a_greenlet_and_what_it_holds_itself() -> None:
    k, fast, section = KMutex(0), FastMutex(0), CriticalSection()

    def work() -> str:
        with k.lock() as guard, fast.lock(), section:
            with k.lock() as inner, section:
                assert inner.is_inner
                inner.value = 1
            assert k.fetch_add(1) == 1
            assert guard.value == 2
            with pytest.raises(AlreadyOwned, match="this task"):
                fast.lock()
            assert section._recursion_count() == 1
            assert not in_thread(lambda: bool(k.try_lock() or fast.try_lock() or section.try_enter()))
            assert in_child(lambda: k.lock(0) if k.try_lock() else None) is None
        assert fast.replace(5) == 0
        return "done"

    assert greenlet.greenlet(work).switch() == "done"
    assert (k.peek(), fast.peek()) == (2, 5)


def test_its_guard_is_of_no_use_to_another() -> None:
    mutex, section = KMutex(0), CriticalSection()
    guards = []

    def hold() -> None:
        guards.append(mutex.lock())
        section.enter()
        greenlet.getcurrent().parent.switch()
        guards.pop().drop_safe()
        section.leave()

    def meddle() -> None:
        for use in (lambda: guards[0].value, guards[0].drop_safe, guards[0].commit, section.leave):
            with pytest.raises(NotOwned):
                use()
        assert mutex.try_lock() is None
        assert not section.try_enter()
        for waits in (lambda: mutex.lock(0), lambda: lock_all(mutex, section, timeout=0)):
            with pytest.raises(LockTimeout):
                waits()

    holder = resumed(hold)
    meddle()
    resumed(meddle)
    holder.switch()
    assert mutex.owner is None
    assert section.owner is None


def test_greenlets_wait_for_other_processes() -> None:
    mutex, section = KMutex(0), CriticalSection()

    def work() -> list[str]:
        told = []
        for waits in (
            lambda: mutex.lock(0.01),
            lambda: lock_all(mutex, timeout=0.01),
            lambda: lock_any(mutex, timeout=0.01),
        ):
            with pytest.raises(LockTimeout) as caught:
                waits()
            told.append(str(caught.value))
        with section:
            pass
        return told

    with held_by_child(mutex):
        assert len(greenlet.greenlet(work).switch()) == 3
    assert greenlet.greenlet(lambda: mutex.fetch_add(1)).switch() == 0
