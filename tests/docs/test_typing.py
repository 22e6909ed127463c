"""The types that users see, as mypy --strict sees them. The files are in tests/typing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import wdkmutex_shm

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "typing")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy_agrees(tmp_path: Path) -> None:
    above = os.path.dirname(os.path.dirname(os.path.abspath(wdkmutex_shm.__file__)))
    files = sorted(os.path.join(FOLDER, name) for name in os.listdir(FOLDER) if name.endswith(".py"))
    assert files
    done = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", "--warn-unreachable",
            "--no-error-summary", "--follow-imports=silent", *files,
        ],
        env={**os.environ, "MYPYPATH": above if "site-packages" not in above else ""},
        cwd=FOLDER, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
