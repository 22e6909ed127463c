"""The tools that attack from outside: each passes in a short run, and fails when the fault that it is for is built in.

``WDKM_PLANTED`` names a folder with a build of the package that carries the faults (``WDKMUTEX_PLANTS=1``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLANTED = os.environ.get("WDKM_PLANTED")
MAY_MOUNT = "the tool can have a /dev/shm of its own only where it may make a mount namespace"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "tools" / "proof").exists(), reason="not run from the source tree"),
]


def prove(folder: Path, tool: str, *words: str, plant: str | None = None) -> tuple[int, dict[str, Any]]:
    """Run a tool in a folder, with a fault switched on if it is named; returns its exit status and its summary."""
    paths = [str(ROOT / "tools"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    if plant is not None:
        if PLANTED is None:
            pytest.skip("WDKM_PLANTED names no build that carries faults")
        paths.insert(0, PLANTED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    environment.pop("WDKMUTEX_PLANT", None)
    if plant is not None:
        environment["WDKMUTEX_PLANT"] = plant
    summary = folder / "summary.json"
    done = subprocess.run(
        [sys.executable, "-m", "proof", tool, "--json", str(summary), *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert summary.exists(), done.stdout + done.stderr
    told: dict[str, Any] = json.loads(summary.read_text())
    assert json.loads(done.stdout) == told
    return done.returncode, told


def holds(folder: Path, tool: str, *words: str) -> dict[str, int]:
    """The tool must break nothing; returns what it counted."""
    status, told = prove(folder, tool, *words)
    assert told["broken"] == []
    assert status == 0
    assert told["ok"] is True
    counts: dict[str, int] = told["counts"]
    return counts


def breaks(folder: Path, plant: str, tool: str, *words: str) -> list[str]:
    """With that fault the tool must break something; returns which promises."""
    status, told = prove(folder, tool, *words, plant=plant)
    assert status == 1, told
    assert told["ok"] is False
    return [broken["promise"] for broken in told["broken"]]


def test_daemon(tmp_path: Path) -> None:
    counts = holds(tmp_path, "daemon", "--seconds", "2")
    assert counts["connections open at once"] == 1000
    assert counts["calls of good clients"] > 0
    assert counts["hostile requests answered"] > 10


def test_daemon_finds_frames_without_a_cap(tmp_path: Path) -> None:
    promises = breaks(tmp_path, "no-frame-cap", "daemon", "--seconds", "0.1", "--attack", "flood")
    assert promises == ["the daemon's memory is bounded"]


def test_fuzz(tmp_path: Path) -> None:
    counts = holds(tmp_path, "fuzz", "--seconds", "3")
    for target in ("stream", "request", "reply", "value"):
        assert counts[f"{target}: inputs"] > 100
        assert counts[f"{target}: ways kept"] > 10


def test_fuzz_finds_frames_without_a_cap(tmp_path: Path) -> None:
    promises = breaks(tmp_path, "no-frame-cap", "fuzz", "--seconds", "2", "--first", "--target", "stream")
    assert promises == ["stream: any bytes end in a value or in an error of ours"] * len(promises)


def test_a_run_of_the_fuzzer_can_be_repeated(tmp_path: Path) -> None:
    first = prove(tmp_path, "fuzz", "--seed", "5", "--seconds", "0.1", "--target", "request")[1]
    assert first["seed"] == 5


def test_damage(tmp_path: Path) -> None:
    counts = holds(tmp_path, "damage", "--seconds", "5")
    assert counts["refusals"] > 40
    assert counts["places changed"] > 50
    assert counts["values"] > 50


def test_damage_finds_lengths_that_are_not_checked(tmp_path: Path) -> None:
    assert breaks(tmp_path, "no-bounds", "damage", "--seconds", "2", "--first")


def test_room(tmp_path: Path) -> None:
    counts = holds(tmp_path, "room", "--seconds", "1")
    assert counts["scenes"] >= 7
    assert counts["descriptors"] > 0
    assert counts["address_space"] > 0


def test_room_finds_memory_that_is_not_reserved(tmp_path: Path) -> None:
    _, told = prove(tmp_path, "room", "--seconds", "0.1", "--scene", "creation")
    if told["skipped"]:
        pytest.skip(MAY_MOUNT)
    scenes = ["--scene", "creation", "--scene", "growth", "--scene", "promised"]
    promises = breaks(tmp_path, "no-fallocate", "room", "--seconds", "1", *scenes)
    assert "no room in /dev/shm: promised" in promises


def test_intruders(tmp_path: Path) -> None:
    counts = holds(tmp_path, "intruders", "--seconds", "1")
    assert counts["refused"] > 20
    assert counts["modes looked at"] > 10
    assert counts["forgeries"] >= 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_intruders_finds_owners_that_are_not_checked(tmp_path: Path) -> None:
    promises = breaks(tmp_path, "no-owner-check", "intruders", "--seconds", "0.1", "--scene", "folder")
    assert "a folder of another user for a runtime folder is refused, and named" in promises
