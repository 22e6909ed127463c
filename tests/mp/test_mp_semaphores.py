"""The semaphores of a crash-proof context, and what becomes of a dead process's part."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from mp_peers import Peer
from processes import Line
from support import DEADLINE

from wdkmutex_shm.mp import semaphores

# Children are forked while other threads run, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def _take(line: Line, semaphore: Any, count: int) -> None:
    for _ in range(count):
        assert semaphore.acquire(timeout=DEADLINE)
    line.say(count)
    line.hear(3600)


def test_a_semaphore_of_several_gives_back_what_the_dead_had(context: Any) -> None:
    semaphore = context.BoundedSemaphore(3)
    semaphore.acquire()
    with Peer(context, _take, semaphore, 2) as child:
        assert child.hear() == 2
        assert semaphore.get_value() == 0
        child.kill()
    assert semaphore.acquire(timeout=DEADLINE)
    assert semaphore.acquire(timeout=DEADLINE)
    for _ in range(3):
        semaphore.release()
    assert semaphore.get_value() == 3


def test_a_bounded_semaphore_has_a_bound(context: Any) -> None:
    semaphore = context.BoundedSemaphore(2)
    assert semaphore.acquire()
    semaphore.release()
    with pytest.raises(ValueError, match="released too many times"):
        semaphore.release()
    assert semaphore.get_value() == 2


def test_a_signal_that_a_dead_process_had_taken_is_used_up(fork: Any) -> None:
    semaphore = fork.Semaphore(0)
    with Peer(fork, _take, semaphore, 1) as child:
        semaphore.release()
        assert child.hear() == 1
        child.kill()
    assert not semaphore.acquire(timeout=0.3)
    assert semaphore.get_value() == 0


def test_places_that_a_dead_process_had_taken_are_counted_once(fork: Any) -> None:
    places = fork.BoundedSemaphore(2)
    with Peer(fork, _take, places, 2) as producer:  # it put two items
        producer.hear()
        producer.kill()
    assert places.acquire(timeout=DEADLINE)  # so far it looks as if the producer had used them as a resource
    places.release()
    places.release()  # but here a consumer releases for the first item
    places.release()  # and for the second
    assert places.get_value() == 2


def test_what_the_dead_had_is_given_back_while_others_come_and_go(fork: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    semaphore = fork.Semaphore(3)
    semaphore.acquire()
    with Peer(fork, _take, semaphore, 2) as child:
        child.hear()
        child.kill()
    asked: list[int] = []
    is_dead = semaphores.is_dead

    def slowly(party: int) -> bool:
        asked.append(party)
        assert len(asked) < 20, "it is asked for ever"
        semaphore.release()
        assert semaphore.acquire(False)
        return is_dead(party)

    monkeypatch.setattr(semaphores, "is_dead", slowly)
    assert semaphore.acquire(False)
    monkeypatch.undo()
    assert semaphore.get_value() == 1


def test_polling_sees_what_the_dead_had(context: Any) -> None:
    semaphore = context.BoundedSemaphore(2)
    with Peer(context, _take, semaphore, 2) as child:
        child.hear()
        assert semaphore.locked()
        child.kill()
    assert semaphore.get_value() == 2
    assert not semaphore.locked()
    assert repr(semaphore) == "<BoundedSemaphore(value=2, maxvalue=2)>"
    assert semaphore.acquire(False)
    assert semaphore.get_value() == 1


def test_the_state_does_not_grow_with_each_process(fork: Any) -> None:
    semaphore = fork.Semaphore(10)
    size = 0
    for count in range(10):
        with Peer(fork, _take, semaphore, 1) as child:
            child.hear()
            child.kill()
        if count == 2:
            size = len(semaphore._cell.peek())
    assert len(semaphore._cell.peek()) == size
    assert semaphore.get_value() == 10, "what they had is still there to be given back"
    for _ in range(10):
        assert semaphore.acquire(False)
    assert not semaphore.acquire(False)


def test_bounds(fork: Any) -> None:
    with pytest.raises(ValueError, match="initial value"):
        fork.Semaphore(-1)
    for value in (2.0, "2", None):
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):  # as multiprocessing's
            fork.Semaphore(value)
    with pytest.raises(ValueError, match="parties"):
        fork.Barrier(0)
    assert fork.Semaphore(sys.maxsize >> 33).get_value() == sys.maxsize >> 33
