"""Containers for tests: processes in a pid namespace of their own, with a runtime folder of their own or a given one.

What they share is what the containers of a pod, or of a compose file with one volume for it, share: /dev/shm.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from support import kill, wait_until

from wdkmutex_shm.base.names import user_prefix
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool import sweep

__all__ = ["Container", "Raised", "needs_namespaces", "of_processes", "pod"]

_AGENT = """
import json, sys
space = {"__name__": "__agent__"}
print(json.dumps([True, None]), flush=True)
for line in sys.stdin:
    try:
        space.pop("result", None)
        exec(json.loads(line), space)
        said = [True, space.get("result")]
    except BaseException as error:
        said = [False, type(error).__name__, str(error)]
    print(json.dumps(said), flush=True)
"""


def _may_unshare() -> bool:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            ["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, timeout=60, check=False
        )
        return done.returncode == 0
    return False


needs_namespaces = pytest.mark.skipif(not _may_unshare(), reason="needs unshare(1) and the right to use it")


# While somebody has it open, no other namespace gets its number.
_namespaces: list[int] = []


def of_processes() -> set[str]:
    """The segments and journals that processes have made for themselves."""
    return {name for name in shm.listing(user_prefix() + "@") if "@waits" not in name}


@pytest.fixture
def pod() -> Iterator[Callable[[], None]]:
    """A function that makes all that containers have made seem to be old. At the end, what they left is removed."""
    before = set(shm.listing(user_prefix()))

    def age() -> None:
        for name in set(shm.listing(user_prefix())) - before:
            os.utime(shm.FOLDER + name, (1, 1))

    yield age
    age()
    sweep.dead_private_pools()
    while _namespaces:
        os.close(_namespaces.pop())


class Raised(Exception):
    """What was raised in a container: ``kind`` is the name of its class."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind, text)
        self.kind = kind
        self.text = text


class Container:
    """One life of a container, whose first process does what it is told. All of it is killed at the end.

    Args:
        runtime: its XDG_RUNTIME_DIR; by default one that nobody else has.
        inside: a container whose pid namespace it shares.
    """

    def __init__(self, *, runtime: str | None = None, inside: Container | None = None) -> None:
        self._own = None if runtime is not None else tempfile.TemporaryDirectory(prefix="wdkmc", dir="/tmp")
        self.runtime = runtime if self._own is None else self._own.name
        assert self.runtime is not None
        into = (
            ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
            if inside is None
            else ["nsenter", f"--pid=/proc/{inside.pid}/ns/pid", "unshare", "--mount-proc"]
        )
        self._process = subprocess.Popen(
            [*into, sys.executable, "-c", _AGENT],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "XDG_RUNTIME_DIR": self.runtime},
        )  # fmt: skip
        self._hear()
        #: The pid of its first process, as it is seen here.
        self.pid: int = wait_until(self._first)
        _namespaces.append(os.open(f"/proc/{self.pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC))

    def _first(self) -> int:
        children = psutil.Process(self._process.pid).children(recursive=True)
        return next((child.pid for child in children if child.cmdline()[:1] == [sys.executable]), 0)

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        said = json.loads(self._process.stdout.readline() or '[false, "EOFError", "it ended"]')
        if said[0]:
            return said[1]
        raise Raised(*said[1:])

    def run(self, code: str) -> Any:
        """Run statements in its first process, and return what they call ``result``.

        Raises:
            Raised: they raised that.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()
        return self._hear()

    def kill(self) -> None:
        """As the OOM killer would: all of its processes, by the first (or only that, in another's namespace)."""
        if self._process.poll() is None:
            kill(self.pid)
            self._process.wait(30)

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        if self._own is not None:
            self._own.cleanup()
