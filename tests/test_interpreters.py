"""Interpreters that the core is not made for: it is not imported there."""

from __future__ import annotations

import subprocess
import sys

import pytest


def _import(before: str) -> subprocess.CompletedProcess[str]:
    program = f"import sys\n{before}\nfrom wdkmutex_shm import KMutex\nprint(KMutex(1).peek())\n"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_an_interpreter_that_was_told_to_do_without_the_gil() -> None:
    done = _import("sys._is_gil_enabled = lambda: False")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: wdkmutex_shm needs the GIL")
    assert "PYTHON_GIL=0" in done.stderr


@pytest.mark.parametrize("before", ["sys._is_gil_enabled = lambda: True", "sys.__dict__.pop('_is_gil_enabled', None)"])
def test_an_interpreter_with_the_gil(before: str) -> None:
    done = _import(before)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
