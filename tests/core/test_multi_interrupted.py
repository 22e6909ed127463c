"""Several mutexes at once, and signal handlers that come into what is done with them."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from processes import Child, Line, in_child

from wdkmutex_shm import CriticalSection, lock_all, lock_any
from wdkmutex_shm.memory import data_segments

LARGE = b"y" * 100_000
NEW = b"z" * 100_000


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Callable[[], None]], None]]:
    """Have SIGUSR1 come the next time that a function of ``data`` is called, and its handler do something."""
    before = signal.getsignal(signal.SIGUSR1)

    def interrupt(step: str, work: Callable[[], None]) -> None:
        real = getattr(data_segments, step)

        def interrupted(*args: Any) -> Any:
            monkeypatch.setattr(data_segments, step, real)
            signal.raise_signal(signal.SIGUSR1)
            return real(*args)

        monkeypatch.setattr(data_segments, step, interrupted)
        signal.signal(signal.SIGUSR1, lambda *_: work())

    yield interrupt
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("way", ["commits", "releases"])
@pytest.mark.parametrize("which", [0, 1])
def test_what_is_committed_while_memory_is_given_back_stands(cls: Any, interrupt: Any, which: int, way: str) -> None:
    """The handler commits one of the mutexes anew, or releases it and another process does."""
    mutexes = [cls(LARGE, type=bytes), cls(LARGE, type=bytes)]
    for mutex in mutexes:
        mutex.replace(LARGE)  # now both of its buffers have a data segment
    seen = []
    with lock_all(*mutexes) as guards:
        guards[0].value = b"1"
        guards[1].value = b"2"

        def handle() -> None:
            seen.append([mutex.peek() for mutex in mutexes])
            if way == "commits":
                guards[which].value = NEW
                guards[which].commit()
            else:
                guards[which].drop_safe()
                in_child(mutexes[which].replace, NEW)

        interrupt("discard", handle)
    assert seen == [[b"1", b"2"]]
    expected = [b"1", b"2"]
    expected[which] = NEW
    assert [mutex.peek() for mutex in mutexes] == expected
    for mutex, value in zip(mutexes, expected, strict=True):
        assert in_child(mutex.to_owned) == value


class Interrupted(Exception):
    """What a handler raises."""


@pytest.fixture
def alarm() -> Iterator[None]:
    """Have the handler of SIGALRM raise Interrupted."""

    def stop(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, stop)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def _enters_and_leaves(line: Line, section: Any) -> None:
    line.say()
    while True:
        with section:
            pass


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("call", [lock_all, lock_any])
def test_who_is_interrupted_in_entering_is_not_in_the_section(call: Any) -> None:
    """Wherever it is interrupted: either it is not entered, or dropping what was entered leaves it."""
    chance = random.Random(4)
    section = CriticalSection()
    interrupted = 0
    with Child(_enters_and_leaves, section) as child:
        child.hear()
        for _ in range(1000):
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 3e-4))
                while True:
                    call(section)
                    assert section._recursion_count() == 0
            except Interrupted:
                interrupted += 1
            assert section._recursion_count() == 0
    assert interrupted == 1000
