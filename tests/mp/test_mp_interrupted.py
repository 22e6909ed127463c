"""What a signal handler raises while a lock or a semaphore of a crash-proof context is acquired: it is not acquired."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from mp_peers import Alarm
from support import DEADLINE

from wdkmutex_shm.core._core import exchange_if
from wdkmutex_shm.mp import locks
from wdkmutex_shm.mp.process_key import me

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

ENOUGH = 1000  # more places than any call here has


def _interrupted(number: int, act: Callable[[], object]) -> bool:
    """Whether ``act`` raised Alarm at a place where a signal handler may run: a call begins, or returned."""
    places = 0

    def at_place(_frame: object, event: str, _what: object) -> None:
        nonlocal places
        if event in ("call", "c_return"):
            places += 1
            if places == number:
                sys.setprofile(None)
                raise Alarm

    try:
        sys.setprofile(at_place)
        act()
    except Alarm:
        return True
    finally:
        sys.setprofile(None)
    return False


def _everywhere(make: Callable[[], Any], act: Callable[[Any], object], check: Callable[[Any], None]) -> None:
    """Interrupt ``act`` at each place in turn, and look each time what is left."""
    act(make())  # what is done once is done
    for number in range(1, ENOUGH):
        made = make()
        if not _interrupted(number, lambda made=made: act(made)):
            assert number > 3, "it was interrupted nowhere"
            return
        check(made)
        assert not made._line.section.locked(), f"still in line, interrupted at place {number}"
    pytest.fail("it never ends")


def _left_by_the_dead(fork: Any, kind: str) -> Any:
    made = getattr(fork, kind)()
    child = fork.Process(target=made.acquire)
    child.start()
    child.join(DEADLINE)
    return made


def _promised(fork: Any) -> Any:
    made = fork.Lock()
    exchange_if(made._word, 0, locks._FREE | locks._PROMISED | locks._now())
    return made


WAYS = {"waits": lambda made: made.acquire(), "tries": lambda made: made.acquire(False)}
STATES = {"free": lambda fork, kind: getattr(fork, kind)(), "dead": _left_by_the_dead}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("state", [*STATES, "promised"])
def test_a_lock_is_not_held_by_who_was_interrupted(fork: Any, state: str, way: str) -> None:
    def check(lock: Any) -> None:
        assert lock._owner() != me()

    make = (lambda: _promised(fork)) if state == "promised" else (lambda: STATES[state](fork, "Lock"))
    _everywhere(make, WAYS[way], check)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("state", STATES)
def test_nothing_of_a_semaphore_is_had_by_who_was_interrupted(fork: Any, state: str, way: str) -> None:
    def check(semaphore: Any) -> None:
        assert semaphore.acquire(timeout=DEADLINE)
        assert not semaphore.acquire(False)

    _everywhere(lambda: STATES[state](fork, "Semaphore"), WAYS[way], check)
