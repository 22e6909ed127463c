"""The models of a slot's life and of sleeping: without a fault nothing is broken, with any of them something is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
FAULTS = ["publish-first", "no-consistent", "no-generation", "no-quarantine", "no-pending", "keep-id"]
FAULTS += ["no-bit", "no-repair", "no-clear", "no-look"]

pytestmark = pytest.mark.skipif(shutil.which("spin") is None, reason="spin is not installed: apt install spin")


def prove(*words: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "proof", "model", *words],
        env={"PYTHONPATH": str(TOOLS), "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.slow
def test_every_state_keeps_the_promises() -> None:
    code, summary = prove()
    assert code == 0
    assert summary["ok"]
    assert summary["counts"]["states"] > 1_000_000, "a model that sees little proves little"


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_an_injected_fault_is_found(fault: str) -> None:
    code, summary = prove("--fault", fault)
    assert code == 1
    assert not summary["ok"]
    assert summary["broken"][0]["trail"]
