"""CPython's tests of multiprocessing pass on the crash-proof context: the quick ones; tools/cpython-tests has all."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "cpython_tests.py"
CASES = (
    "WithProcessesTestLock",
    "WithProcessesTestSemaphore",
    "WithProcessesTestValue",
    "WithProcessesTestPoolWorkerErrors",
)


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TOOL, *words], capture_output=True, text=True, timeout=110, check=False)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("test") is None, reason="this Python came without its test package")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_they_pass(method: str) -> None:
    done = _run(method, "--", *CASES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all passed\n") or "skipped:" in done.stdout
    if "skipped:" not in done.stdout:
        assert "OK" in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("test") is None, reason="this Python came without its test package")
def test_a_failure_is_told() -> None:
    done = _run("fork", "--", "NoSuchCase")
    assert done.returncode == 1
    assert done.stdout.endswith("failed: fork\n")
    assert _run("thread").returncode == 2
