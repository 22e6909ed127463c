"""Runs ``wdkmutex-daemon`` as its users do: as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from support import DEADLINE

__all__ = ["Command"]


class Command:
    """The command line, for one instance.

    Calling it runs a verb to its end and returns what it printed; a status other than ``code``, a traceback, or an
    error that is not the one line which it must be fails the test.
    """

    def __init__(self, instance: str = "") -> None:
        self.instance = instance

    def words(self, *args: str) -> list[str]:
        """The command and its arguments."""
        return [sys.executable, "-m", "wdkmutex_daemon", *args]

    def environment(self, **more: str) -> dict[str, str]:
        """The environment that names the instance."""
        chosen = {"WDKMUTEX_INSTANCE": self.instance} if self.instance else {}
        return {**os.environ, **chosen, **more}

    def __call__(self, *args: str, code: int = 0, stdin: str = "", env: dict[str, str] | None = None) -> str:
        """Run a verb; return its stdout if ``code`` is 0, else its stderr (its stdout if it wrote nothing there)."""
        done = subprocess.run(
            self.words(*args),
            input=stdin,
            env=self.environment(**(env or {})),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, f"{args}: status {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}"
        if code == 0:
            return done.stdout
        errors = [line for line in done.stderr.splitlines() if line.startswith("wdkmutex-daemon: error: ")]
        assert len(errors) <= 1, done.stderr
        return done.stderr or done.stdout

    def error(self, *args: str, code: int, stdin: str = "") -> str:
        """Run a verb that must fail with exactly one line on stderr; return that line's message."""
        said = self(*args, code=code, stdin=stdin)
        assert said.startswith("wdkmutex-daemon: error: "), said
        assert said.count("\n") == 1, said
        return said.removeprefix("wdkmutex-daemon: error: ").strip()

    def json(self, *args: str) -> Any:
        """Run a verb with ``--json`` and return the object that it printed."""
        return json.loads(self(*args, "--json"))

    @contextlib.contextmanager
    def running(self, *args: str, **popen: Any) -> Iterator[subprocess.Popen[str]]:
        """A verb that runs meanwhile, with pipes; killed at the end if it still runs."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
        with subprocess.Popen(self.words(*args), env=self.environment(), text=True, **pipes) as process:
            try:
                yield process
            finally:
                process.kill()

    @contextlib.contextmanager
    def holding(self, name: str) -> Iterator[subprocess.Popen[str]]:
        """A ``lock`` that holds the mutex until its stdin is closed: it runs cat(1)."""
        with self.running("lock", "-v", name, "--", "cat") as process:
            assert process.stderr is not None
            assert process.stdin is not None
            said = process.stderr.readline()
            assert said.startswith(f"Locked {name}"), said
            yield process
            process.stdin.close()
            process.wait(DEADLINE)
