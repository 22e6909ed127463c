"""Processes that use the types of a crash-proof context at full speed, and are killed at random instants."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from procs import wait_until
from support import DEADLINE, kill

from wdkmutex_shm import mp

# Children are forked while other threads run, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

LATE = 15.0  # seconds after which whoever waits was forgotten
FORGOTTEN = 7


def _semaphore(shared: Any, done: Any) -> None:
    while True:
        if not shared["semaphore"].acquire(timeout=LATE):
            done[FORGOTTEN] += 1
            continue
        done[0] += 1
        shared["semaphore"].release()


def _lock(shared: Any, done: Any) -> None:
    while True:
        if not shared["lock"].acquire(timeout=LATE):
            done[FORGOTTEN] += 1
            continue
        done[1] += 1
        shared["lock"].release()


def _waiter(shared: Any, done: Any) -> None:
    while True:
        with shared["condition"]:
            done[2 if shared["condition"].wait(LATE) else FORGOTTEN] += 1


def _notifier(shared: Any, done: Any) -> None:
    while True:
        with shared["condition"]:
            shared["condition"].notify()
        done[3] += 1


def _getter(shared: Any, done: Any) -> None:
    while True:
        shared["queue"].get()
        done[4] += 1


def _putter(shared: Any, done: Any) -> None:
    while True:
        shared["queue"].put(1)
        done[5] += 1


ROLES: tuple[Callable[[Any, Any], None], ...] = (
    *(_semaphore, _semaphore, _semaphore, _lock, _lock, _waiter, _waiter, _notifier),
    *(_getter, _putter),
)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_nobody_is_forgotten(seed: int) -> None:
    context = mp.get_context("fork")
    shared = {
        "semaphore": context.BoundedSemaphore(2),
        "lock": context.Lock(),
        "condition": context.Condition(),
        "queue": context.Queue(3),
    }
    done = context.RawArray("q", 8)
    dice = random.Random(seed)

    def start(role: Callable[[Any, Any], None]) -> Any:
        process = context.Process(target=role, args=(shared, done), daemon=True)
        process.start()
        return process

    processes = [start(role) for role in ROLES]
    try:
        for _ in range(150):
            before = sum(done)
            wait_until(lambda before=before: sum(done) > before + dice.randrange(50), "work goes on", 2 * LATE)
            at = dice.randrange(len(ROLES))
            kill(processes[at].pid)
            processes[at].join()
            processes[at] = start(ROLES[at])
        before = list(done)
        wait_until(lambda: all(now > then for now, then in zip(done[:6], before[:6], strict=True)), "each role goes on")
        assert done[FORGOTTEN] == 0
    finally:
        for process in processes:
            kill(process.pid)
            process.join()
    for name in (
        "semaphore",
        "semaphore",
        "lock",
    ):  # both of the semaphore's: what the dead have is given back when needed
        assert shared[name].acquire(timeout=DEADLINE)
    for name in ("semaphore", "semaphore", "lock"):
        shared[name].release()
    assert shared["semaphore"].get_value() == 2
    shared["queue"].cancel_join_thread()
