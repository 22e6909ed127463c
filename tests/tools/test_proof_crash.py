"""The tools that prove what is promised about crashes: they find nothing in a clean build, and each injected fault.

A build with faults is named by WDKM_PLANTED: a folder that holds the package ``wdkmutex_shm``, built as faults.h says.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from array import array
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (TOOLS / "proof").exists(), reason="not run from the source tree"),
]


def prove(tool: str, *options: str, plant: str | None = None) -> dict[str, Any]:
    """Run a tool and return its summary; its exit status must agree with it."""
    path = [str(TOOLS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = dict(os.environ)
    if plant is not None:
        folder = os.environ.get("WDKM_PLANTED")
        if folder is None:
            pytest.skip("WDKM_PLANTED names no build that carries faults")
        path.insert(0, folder)
        environment["WDKMUTEX_PLANT"] = plant
    environment["PYTHONPATH"] = os.pathsep.join(path)
    words = [sys.executable, "-m", "proof", tool, *options]
    done = subprocess.run(words, env=environment, cwd=TOOLS, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode in (0, 1), done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    assert summary["ok"] == (done.returncode == 0)
    if summary["skipped"]:
        pytest.skip("; ".join(summary["skipped"]))
    return summary


def test_a_point_is_the_place_that_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    from proof.base.stepping import Trace

    chance = random.Random(7)
    for _ in range(50):
        length = chance.randrange(1, 300)
        where = [chance.randrange(1, 40) for _ in range(length)]
        flags = bytes(chance.choice((0, 0, 0, 0, 0, 2, 1)) for _ in range(length))
        first_call = chance.randrange(5)
        trace = Trace(first_call, array("Q", where), flags, True)
        after_call = [0] + [number + 1 for number, flag in enumerate(flags) if flag & 1]
        assert trace.calls == len(after_call) - 1
        for number in range(length):
            point = trace.point(number)
            assert trace.counted(number) == (point.calls, 0, 0, number - after_call[point.calls - first_call])
            start = place = after_call[point.calls - first_call]
            if point.times:
                hits = [at for at in range(start, length) if where[at] == point.where]
                place = hits[point.times - 1]
            assert place + point.steps == number
            assert not any(flag & 1 for flag in flags[start:number])  # within one stretch
            assert point.steps + 2 * point.times <= max(number - start, 2)
        assert trace.changes == [0] + [number + 1 for number, flag in enumerate(flags[:-1]) if flag]


def test_instructions() -> None:
    summary = prove("instructions", "--seconds", "8")
    assert summary["broken"] == []
    counts = summary["counts"]
    # How far it comes in that time is the machine's affair; by hand it is all operations.
    assert counts["operations"] > 0 and counts["kills"] > 0
    assert counts["where it was meant"] > 0


def test_every_instruction_of_a_part() -> None:
    summary = prove("instructions", "--operation", "fetch-add", "--stride", "100")
    assert summary["broken"] == []
    assert summary["counts"]["kills"] >= summary["counts"]["fetch-add: instructions seen"] // 100 - 1


@pytest.mark.parametrize("operation", ["fast-commit", "bytes-commit"])
def test_instructions_finds_what_is_published_first(operation: str) -> None:
    assert prove("instructions", "--operation", operation, "--seconds", "5", "--first", plant="publish-first")["broken"]


@pytest.mark.parametrize("operation", ["lock-all", "lock-all-large"])
def test_instructions_finds_what_is_published_by_halves(operation: str) -> None:
    assert prove("instructions", "--operation", operation, "--seconds", "20", "--first", plant="no-journal")["broken"]


def test_instructions_finds_a_journal_that_is_closed_too_early() -> None:
    summary = prove("instructions", "--operation", "lock-all", "--seconds", "20", "--first", plant="journal-early")
    assert "all of them are published, or none" in {broken["promise"] for broken in summary["broken"]}


def test_instructions_finds_who_sleeps_on() -> None:
    summary = prove("instructions", "--operation", "commit-waited-for", "--seconds", "20", "--first", plant="no-look")
    assert summary["broken"][0]["promise"] == "who sleeps wakes within 1 s"


@pytest.mark.parametrize("operation", ["k-commit", "section"])
def test_instructions_finds_what_is_not_marked_consistent(operation: str) -> None:
    assert prove("instructions", "--operation", operation, "--seconds", "5", "--first", plant="no-consistent")["broken"]


def test_storm() -> None:
    summary = prove("storm", "--seconds", "6", "--at-least", "300")
    assert summary["broken"] == []
    counts = summary["counts"]
    assert counts["commits"] > 0 and counts["kills"] > 0 and counts["books audited"] > 0
    assert counts["transfers in the bank"] > 0 and counts["pool: tasks done"] > 0
    assert sum(counts[f"operations: {name}"] for name in ("lock_when", "wait_for", "guard.wait_for", "changes")) > 0
    assert sum(counts[f"operations: mp.{name}"] for name in ("Lock", "Value", "Semaphore", "Queue: put")) > 0


@pytest.mark.parametrize("plant", ["no-consistent", "no-generation"])
def test_storm_finds(plant: str) -> None:
    assert prove("storm", "--seconds", "12", "--at-least", "600", "--first", plant=plant)["broken"]


def test_forks() -> None:
    summary = prove("forks", "--seconds", "8")
    assert summary["broken"] == []
    counts = summary["counts"]
    assert counts["cells"] > 0 and counts["interrupts"] > 0


def test_forks_finds_that_forks_are_not_noticed() -> None:
    assert prove("forks", "--seconds", "10", "--first", plant="no-fork-check")["broken"]
