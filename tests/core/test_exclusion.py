"""Mutual exclusion under load: nobody inside together, nothing lost, though holders die; and that we would notice."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from kinds import KINDS, Tally, acquire, make
from processes import Child, Line, Worker
from support import wait_until

from wdkmutex_shm import FastMutex, KMutex

PROCESSES = 3
SECONDS = 0.35  # of work, however many steps that makes


class Broken:
    """A lock that excludes nobody: the control, with which the check must fail."""

    def __enter__(self) -> Broken:
        return self

    def __exit__(self, *_: object) -> None: ...


def _enter(mutex: Any) -> Any:
    return mutex if isinstance(mutex, Broken) else acquire(mutex)


def _step_until_told(line: Line, mutex: Any, tally: Tally, seconds: float) -> None:
    steps = alone = 0
    line.say("ready")
    line.hear()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with _enter(mutex):
            alone += tally.step()
        steps += 1
    line.say((steps, alone))


def _exclusion_holds(mutex: Any, path: Path, method: str = "fork", seconds: float = SECONDS) -> bool:
    """Let processes and a thread each work on one tally; whether all of their steps count and none saw another."""
    tally = Tally(str(path / "tally"))
    lines: list[Line] = [Child(_step_until_told, mutex, tally, seconds, method=method) for _ in range(PROCESSES - 1)]
    lines.append(Worker(_step_until_told, mutex, tally, seconds))
    for line in lines:
        line.hear()
    for line in lines:
        line.say("go")
    results = [line.hear() for line in lines]
    for line in lines:
        line.__exit__(None, None, None)  # type: ignore[attr-defined]
    steps = sum(steps for steps, _ in results)
    assert all(steps > 0 for steps, _ in results), f"somebody never got the lock: {results}"
    return bool(steps == sum(alone for _, alone in results) == tally.read()[0])


def test_the_check_can_fail(tmp_path: Path) -> None:
    wait_until(lambda: not _exclusion_holds(Broken(), tmp_path), "a lock that excludes nobody is found out")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_exclusion(kind: str, method: str, tmp_path: Path) -> None:
    assert _exclusion_holds(make(kind), tmp_path, method)


@pytest.mark.parametrize("kind", KINDS)
def test_exclusion_of_a_registered_one(kind: str, tmp_path: Path, grt: str) -> None:
    assert _exclusion_holds(make(kind, "tally"), tmp_path)


def _count(line: Line, mutex: Any, times: int, how: str) -> None:
    line.say("ready")
    line.hear()
    for _ in range(times):
        if how == "guard":
            with mutex.lock() as guard:
                guard.value += 1
        elif how == "fetch_add":
            mutex.fetch_add(1)
        else:
            guard = mutex.lock()
            guard.value += 1
            del guard
    line.say("done")


@pytest.mark.parametrize("cls", [KMutex, FastMutex])
def test_no_update_is_lost(cls: Any) -> None:
    mutex = cls(0)
    children = [Child(_count, mutex, 3000, how) for how in ("guard", "fetch_add", "drop")]
    for child in children:
        child.hear()
    for child in children:
        child.say("go")
    for child in children:
        child.hear()
        child.__exit__(None, None, None)
    assert mutex.peek() == 9000
    assert mutex.statistics().commits == 9000
    assert mutex.statistics().acquisitions == 9000


def _count_and_confess(line: Line, mutex: Any, reports: int) -> None:
    """Add one to both halves of T at a time, for ever, and note each one that was committed in a file of 8 bytes."""
    done = 0
    line.say("ready")
    while True:
        with mutex.lock() as guard:
            guard.value[0] += 1
            guard.value[1] += 1
        done += 1
        os.pwrite(reports, done.to_bytes(8, "little"), 0)


@pytest.mark.parametrize("cls", [KMutex, FastMutex])
@pytest.mark.parametrize("bulk", [0, 5000])
def test_counts_right_while_holders_are_killed(cls: Any, bulk: int, tmp_path: Path) -> None:
    # T takes the inline buffers, and then data segments; a killed holder may lose the report, never T.
    mutex = cls([0, 0, "x" * bulk])
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    confessed = kills = 0
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        with open(tmp_path / "report", "w+b") as report:
            with Child(_count_and_confess, mutex, report.fileno()) as child:
                child.hear()
                deadline = time.monotonic() + dice.random() * 0.02
                while time.monotonic() < deadline:
                    mutex.peek()
                assert child.silent(0)
                child.kill(signal.SIGKILL)
            confessed += int.from_bytes(os.pread(report.fileno(), 8, 0), "little")
        kills += 1
        with mutex.lock(5) as guard:
            left, right, rest = guard.value
            assert left == right, f"seed {seed}"
            assert rest == "x" * bulk
            assert confessed <= left <= confessed + kills, f"seed {seed}"
    assert mutex.statistics().commits == mutex.peek()[0] > 0
