"""B9: how soon a waiter has the lock of a holder that was killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

from benchmark.figures import median
from benchmark.model import Context, Entry, Row, Target
from benchmark.workers import Child, say
from wdkmutex_shm import FastMutex

__all__ = ["ROWS"]

_PARKED = 0.005
_SETS = 8
"""The medians of so many parts of the trials give the spread."""


def _holder(mutex: FastMutex[int]) -> Callable[[Connection], None]:
    def work(line: Connection) -> None:
        with mutex.lock():
            say(line, "held")
            line.recv()

    return work


def _waiter(mutex: FastMutex[int]) -> Callable[[Connection], None]:
    """Whenever it is told, waits for the lock and says when it had it and whether its holder had died."""

    def work(line: Connection) -> None:
        while True:
            line.recv()
            with mutex.lock() as guard:
                had = time.monotonic_ns()
                abandoned = guard.abandoned
            say(line, (had, abandoned))

    return work


def _to_waiter(mutex: FastMutex[int], waiter: Child) -> float:
    """Microseconds from the kill to the waiter's acquisition."""
    with Child(_holder(mutex)) as holder:
        holder.hear()
        waiter.tell("lock")
        time.sleep(_PARKED)  # it spins for much less before it sleeps in the kernel
        killed = time.monotonic_ns()
        os.kill(holder.pid, signal.SIGKILL)
        had, abandoned = waiter.hear()
        holder.reap()
    if not abandoned:
        raise RuntimeError("the waiter had the lock before its holder was dead")
    return float(had - killed) / 1e3


def _to_parent(mutex: FastMutex[int]) -> float:
    """Microseconds from the kill to the parent's return from waitpid(2)."""
    with Child(_holder(mutex)) as holder:
        holder.hear()
        time.sleep(_PARKED)
        killed = time.monotonic_ns()
        os.kill(holder.pid, signal.SIGKILL)
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
        seen = time.monotonic_ns()
        holder.reap()
    return float(seen - killed) / 1e3


def _death(context: Context) -> Iterator[Entry]:
    mutex, control = FastMutex(0), FastMutex(0)
    ours: list[float] = []
    theirs: list[float] = []
    with Child(_waiter(mutex)) as waiter:
        for number in range(context.effort.kills):
            if number % 10 == 0:
                context.tell("killing holders", number / context.effort.kills)
            ours.append(_to_waiter(mutex, waiter))
            theirs.append(_to_parent(control))
    yield Entry(
        part="",
        title=f"SIGKILL of the holder to the waiter's acquisition, p50 of {len(ours)}",
        unit="us",
        ours=_medians(ours),
        ours_name="FastMutex, waiter",
        peer=_medians(theirs),
        peer_name="SIGKILL to the parent's waitpid()",
        target=Target("ratio", at_most=1.3),
        notes=["multiprocessing.Lock has no figure here: its waiter waits forever"],
    )


def _medians(values: list[float]) -> tuple[float, ...]:
    size = max(len(values) // _SETS, 1)
    return tuple(median(values[begin : begin + size]) for begin in range(0, len(values) - size + 1, size))


ROWS = [Row("B9", "the holder is killed", _death)]
