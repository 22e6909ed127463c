"""The types of a crash-proof context where two change one thing at the same moment, and the books of its queues."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from processes import Worker, in_thread
from support import DEADLINE, Fork

from wdkmutex_shm import DeadlockError, MutexDestroyed, mp
from wdkmutex_shm.mp import counter, event, locks, shared_state

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

FORK = mp.get_context("fork")


@pytest.fixture
def overtaken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any, Callable[[], object]], None]]:
    """Have something done by somebody else between a module's look at a number and its next exchange of it."""

    def overtake(module: Any, by: Callable[[], object]) -> None:
        real = module.exchange_if
        waiting = [by]

        def exchange_if(*args: Any) -> Any:
            while waiting:
                waiting.pop()()
            return real(*args)

        monkeypatch.setattr(module, "exchange_if", exchange_if)

    yield overtake


# --- Event


def test_an_event_that_two_set_and_clear_at_once(overtaken: Any) -> None:
    made = FORK.Event()
    overtaken(event, made.set)
    made.set()
    assert made.is_set()
    overtaken(event, made.clear)
    made.clear()
    assert not made.is_set()
    overtaken(event, lambda: (made.set(), made.clear()))
    made.set()
    assert made.is_set()
    overtaken(event, lambda: (made.clear(), made.set()))
    made.clear()
    assert not made.is_set()


def test_an_event_that_is_waited_for() -> None:
    made = FORK.Event()
    assert not made.wait(0.01)
    assert "unset" in repr(made)
    with Worker(lambda line: line.say(made.wait(DEADLINE))) as worker:
        assert worker.silent(1.1), "it looks again after a second"
        made.set()
        assert worker.hear() is True
    assert made.wait(0)


# --- Lock


def test_a_lock_changes_hands_while_its_state_is_changed(overtaken: Any) -> None:
    lock = FORK.Lock()
    party = locks.me()
    attempt = locks._Attempt(lock._word, party)
    assert lock.acquire()
    overtaken(locks, lambda: attempt.insist())  # somebody begins to wait just when it is released
    attempt.give_back()
    assert not lock.locked()
    assert lock._word.peek() & locks._FREE
    assert lock._word.peek() & locks._PROMISED
    attempt.relent()  # who was promised it does not come
    assert lock._word.peek() == 0
    assert lock.acquire()
    overtaken(locks, lock.release)
    attempt.insist()
    assert lock._word.peek() == 0, "it is free: there is nothing to promise"
    assert lock.acquire()
    overtaken(locks, lambda: (lock.release(), lock.acquire()))
    attempt.insist()
    assert lock._word.peek() == party | locks._PROMISED
    overtaken(locks, lambda: attempt.relent())
    lock.release()
    assert lock._word.peek() == 0
    attempt.give_back()
    assert lock._word.peek() == 0, "what is not had is not given back"


def test_a_condition_takes_its_lock_back_whatever_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread is told of a deadlock; what a handler raises comes once it is had; one that is gone ends it."""
    lock = FORK.Lock()
    raised: list[BaseException] = [DeadlockError("a cycle"), KeyboardInterrupt(), ValueError("a second one")]
    real = locks.WaitLine.wait

    def wait(self: Any, *args: Any) -> Any:
        if raised:
            raise raised.pop(0)
        return real(self, *args)

    assert lock.acquire()
    monkeypatch.setattr(locks.WaitLine, "wait", wait)
    free = threading.Timer(0.1, lock.release)
    free.start()
    with pytest.raises(KeyboardInterrupt):
        lock._acquire_restore(1)
    assert lock._is_mine()
    raised.append(MutexDestroyed("it is gone"))
    with pytest.raises(MutexDestroyed):
        lock._acquire_restore(1)
    free.join()
    lock.release()


def test_an_rlock_with_a_time_that_has_passed() -> None:
    lock = FORK.RLock()
    assert lock.acquire(timeout=-5)
    assert in_thread(lambda: lock.acquire(timeout=-5)) is False
    lock.release()


# --- lines, cells and books


class _Never(shared_state.Attempt):
    """What is not to be had until somebody says so."""

    def __init__(self) -> None:
        self.free = False
        self.back = 0

    def take(self, first: bool) -> bool | None:
        self.had = self.free
        return self.had or None

    def give_back(self) -> None:
        self.back += 1


def test_a_line_whose_first_does_not_move() -> None:
    """Whoever stands behind looks for itself, and goes when its time is up."""
    line, cell = shared_state.WaitLine(), FORK.Event()._word
    with Worker(_hold_section, line.section) as first:
        assert first.hear() == "held"
        attempt = _Never()
        assert line.wait(cell, attempt, 0) is False
        assert line.wait(cell, attempt, 0.2) is False
        threading.Timer(0.1, lambda: setattr(attempt, "free", True)).start()
        assert line.wait(cell, attempt, None) is True
    assert attempt.back == 0


def _hold_section(line: Any, section: Any) -> None:
    with section:
        line.say("held")
        time.sleep(1.0)


def test_what_is_had_and_never_told_is_given_back() -> None:
    """A signal handler raises after the attempt succeeded and before the caller knows; and before it did."""

    class Interrupted(_Never):
        def __init__(self, free: bool) -> None:
            super().__init__()
            self.free = free

        def take(self, first: bool) -> bool | None:
            super().take(first)
            raise KeyboardInterrupt

    for free in (True, False):
        attempt = Interrupted(free)
        with pytest.raises(KeyboardInterrupt):
            shared_state.WaitLine().wait(FORK.Event()._word, attempt, None)
        assert attempt.back == free


def test_a_state_of_many_entries() -> None:
    cell = shared_state.PackedState("i", "q", [7])
    for count in range(20):
        cell.change(lambda state, count=count: state.append(count) or True)
    assert cell.peek() == [7, *range(20)]
    assert cell.change(lambda state: None) is None
    assert shared_state.PackedState("i", "q", cell.mutex).peek() == [7, *range(20)]


def test_a_state_that_another_changes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = shared_state.PackedState("i", "q", [0])
    barrier = FORK.Barrier(2)
    others = [lambda: cell.change(lambda state: _add(state, 10)), barrier.abort]

    def overtaken_by(other: Callable[[], object], change: Callable[[Any], Any]) -> Callable[[Any], Any]:
        waiting = [other]

        def meanwhile(state: Any) -> Any:
            while waiting:
                waiting.pop()()
            return change(state)

        return meanwhile

    assert cell.change(overtaken_by(others[0], lambda state: _add(state, 1)))
    assert cell.peek() == [11]
    found = shared_state.changed(barrier._cell, overtaken_by(others[1], lambda state: list(state)))
    assert found is not None and found[1] == 2, "what the other had committed"


def _add(state: Any, number: int) -> bool:
    state[0] += number
    return True


def test_books_of_any_number_of_items(overtaken: Any) -> None:
    books = counter.Counter(None)
    overtaken(counter, lambda: books.reserve(True, None, []))  # somebody else puts an item at the same moment
    books.reserve(True, None, [])
    assert books.count() == 2
    books.release()
    books.taken(0, [])
    books.taken(0, [])
    assert books.count() == 0
    assert not books.full()


def test_books_of_a_process_that_was_struck_off() -> None:
    """What it does afterwards changes nobody's numbers."""
    made = FORK.JoinableQueue(2)
    books = made._counts
    books.release()
    books.sent(1)
    books.taken(12345, [])
    assert books.count() == 0
    assert made.qsize() == 0
    made.close()


def test_tasks_that_are_done_early_and_by_others() -> None:
    made = FORK.JoinableQueue()
    made.put(1)
    made.task_done()  # before anybody took it
    with pytest.raises(ValueError, match="too many"):
        made.task_done()
    assert made.get(timeout=DEADLINE) == 1
    made.join()

    made.put(2)
    with Fork(lambda: made.get(timeout=DEADLINE)) as child:
        assert child.result() == 2
        made.task_done()  # of what the child had taken
        made.join()
    with pytest.raises(ValueError, match="too many"):
        made.task_done()
    made.close()
    made.join_thread()


def test_a_join_that_does_not_end_in_time() -> None:
    made = FORK.JoinableQueue(3)
    made.put(1)
    assert made._counts.wait_until_done(0) is False
    assert made._counts.wait_until_done(0.15) is False
    assert made.get(timeout=DEADLINE) == 1
    made.task_done()
    assert made._counts.wait_until_done(DEADLINE)
    made.close()
    made.join_thread()


def test_a_queue_that_stays_full() -> None:
    made = FORK.Queue(1)
    made.put("a")
    assert made.full()
    for block, timeout in ((False, None), (True, 0.05), (True, -1)):
        with pytest.raises(queue.Full):
            made.put("b", block, timeout)
    with Worker(lambda line: (made.put("c"), line.say("put"))) as other:
        assert other.silent(0.1)
        assert made.get(timeout=DEADLINE) == "a"
        assert other.hear() == "put"
    assert made.get(timeout=DEADLINE) == "c"
    with pytest.raises(queue.Empty):
        made.get(timeout=0.01)
    with pytest.raises(queue.Empty):
        made.get_nowait()
    made.close()
    made.join_thread()
    with pytest.raises(ValueError, match="closed"):
        made.put("d")
    with pytest.raises(ValueError, match="closed"):
        made.get()


def test_a_pool_without_a_context() -> None:
    from wdkmutex_shm.mp.pool import Pool

    with Pool(1) as pool:
        assert pool.apply(abs, (-3,)) == 3


def test_a_pool_takes_its_context_where_multiprocessing_does() -> None:
    from wdkmutex_shm.mp.pool import Pool

    with Pool(1, None, (), None, FORK) as pool:
        assert pool.apply(abs, (-3,)) == 3
