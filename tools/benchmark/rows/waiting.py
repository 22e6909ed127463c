"""W1 and W2: a value that another process waits for, and several mutexes at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import repeat
from multiprocessing.sharedctypes import RawValue
from typing import Any

from benchmark.model import Context, Entry, Row, Target
from benchmark.rows.common import in_unit, others, timed
from wdkmutex_shm import FastMutex, KMutex, lock_all

__all__ = ["ROWS"]

_FORK = multiprocessing.get_context("fork")
_OURS = "FastMutex.lock_when"
_CONDITION = "multiprocessing.Condition"

Turns = Callable[[int, int], None]
"""Waits so many times for the number to be of a parity, and adds one each time."""


def _lock_when(mutex: Any) -> Turns:
    def take(parity: int, n: int) -> None:
        for _ in repeat(None, n):
            with mutex.lock_when(lambda turn: turn % 2 == parity) as guard:
                guard.value += 1

    return take


def _wait_in_guard(mutex: Any) -> Turns:
    def take(parity: int, n: int) -> None:
        with mutex.lock() as guard:
            for _ in repeat(None, n):
                guard.wait_for(lambda turn: turn % 2 == parity)
                guard.value += 1

    return take


def _condition() -> Turns:
    condition, turn = _FORK.Condition(), RawValue("q", 0)

    def take(parity: int, n: int) -> None:
        for _ in repeat(None, n):
            with condition:
                condition.wait_for(lambda: turn.value % 2 == parity)
                turn.value += 1
                condition.notify()

    return take


@contextmanager
def _apart() -> Iterator[set[int]]:
    """Keep this process on one of its processors, and return one for a partner.

    Else the scheduler has two that wake each other on one processor in some rounds, and on two in others.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield {max(allowed)}
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def _partner(take: Turns, processor: set[int]) -> Iterator[None]:
    """A process that takes every second turn, until it is killed."""
    pid = os.fork()
    if pid == 0:
        try:
            os.sched_setaffinity(0, processor)
            while True:
                take(1, 1000)
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _handover(context: Context) -> Iterator[Entry]:
    ways = {
        _OURS: _lock_when(FastMutex(0)),
        _CONDITION: _condition(),
        "KMutex.lock_when": _lock_when(KMutex(0)),
        "FastMutex, guard.wait_for": _wait_in_guard(FastMutex(0)),
    }
    with ExitStack() as stack:
        processor = stack.enter_context(_apart())
        for take in ways.values():
            stack.enter_context(_partner(take, processor))
        # A function of its own for each: a loop's variable would be the last one's in all.
        runs = {name: (lambda n, take=take: take(0, n)) for name, take in ways.items()}
        found = timed(context, "handing over", runs)
    yield Entry(
        part="",
        title="two processes take turns at a value: there and back",
        unit="us",
        ours=in_unit(found[_OURS], "us"),
        ours_name=_OURS,
        peer=in_unit(found[_CONDITION], "us"),
        peer_name=_CONDITION,
        target=Target("ratio", at_most=0.8),
        others=others(found, "us", _OURS, _CONDITION),
        notes=[
            "each process has its own CPU; on a shared CPU both candidates take 28 µs",
            "the Condition guards a RawValue and is notified explicitly; ours notifies by committing",
        ],
    )


def _four(context: Context) -> Iterator[Entry]:
    for part, change in (("changed", True), ("unchanged", False)):
        runs = _four_of(FastMutex, change) | {f"KMutex: {name}": run for name, run in _four_of(KMutex, change).items()}
        begin = 0.0 if change else 0.5
        found = timed(context, "four at once", runs, begin, begin + 0.5)
        yield Entry(
            part=part,
            title=f"four mutexes, each {'incremented' if change else 'left as it is'}: lock_all",
            unit="ns",
            ours=in_unit(found["lock_all"], "ns"),
            ours_name="lock_all",
            peer=in_unit(found["four with"], "ns"),
            peer_name="four with",
            target=Target("ratio", at_most=1.2),
            others=others(found, "ns", "lock_all", "four with"),
            notes=["four with are published one by one, and can deadlock"],
        )


def _four_of(kind: Any, change: bool) -> dict[str, Callable[[int], object]]:
    a, b, c, d = (kind(0) for _ in range(4))

    def at_once(n: int) -> None:
        for _ in repeat(None, n):
            with lock_all(a, b, c, d) as (of_a, of_b, of_c, of_d):
                if change:
                    of_a.value += 1
                    of_b.value += 1
                    of_c.value += 1
                    of_d.value += 1

    def nested(n: int) -> None:
        for _ in repeat(None, n):
            with a.lock() as of_a, b.lock() as of_b, c.lock() as of_c, d.lock() as of_d:
                if change:
                    of_a.value += 1
                    of_b.value += 1
                    of_c.value += 1
                    of_d.value += 1

    return {"lock_all": at_once, "four with": nested}


ROWS = [
    Row("W1", "waiting for a value", _handover),
    Row("W2", "several at once", _four),
]
