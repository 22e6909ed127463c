"""The ways to make a child, from Python's own to the bare system calls."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from ..base.children import fork
from . import child

_DEADLINE = 30.0


class Child:
    """A child that was made in some way, and the line to it."""

    def __init__(self, line: Connection, pid: int, reap: Callable[[], object]) -> None:
        self.line = line
        self.pid = pid
        self._reap = reap
        self._ended = False

    def hear(self) -> str | None:
        """What the child says is wrong, None if nothing is."""
        if not self.line.poll(_DEADLINE):
            os.kill(self.pid, signal.SIGKILL)
            return f"the child says nothing for {_DEADLINE:g} s"
        try:
            found: str | None = self.line.recv()
        except EOFError:
            return "the child ended without a word"
        return found

    def tell(self) -> None:
        """Let it go on."""
        with contextlib.suppress(OSError):
            self.line.send(None)

    def end(self) -> None:
        """Wait for its end; kill it if it does not come."""
        if self._ended:
            return
        self._ended = True
        with contextlib.suppress(ProcessLookupError):  # a fork server waits for its children itself
            fd = os.pidfd_open(self.pid)
            try:
                if not select.select([fd], [], [], _DEADLINE)[0]:
                    os.kill(self.pid, signal.SIGKILL)
            finally:
                os.close(fd)
        self._reap()
        self.line.close()


def _fork(orders: child.Orders, guard: Any) -> Child:
    ours, theirs = multiprocessing.Pipe()

    def live() -> None:
        ours.close()
        child.run(theirs, orders, guard)

    pid = fork(live)
    theirs.close()
    return Child(ours, pid, lambda: os.waitpid(pid, 0))


def _program(fd: int) -> list[str]:
    return [sys.executable, "-m", "proof.forking.child", str(fd)]


def _popen(close_fds: bool) -> Callable[[child.Orders, Any], Child]:
    def make(orders: child.Orders, guard: Any) -> Child:
        ours, theirs = multiprocessing.Pipe()
        if close_fds:
            process = subprocess.Popen(_program(theirs.fileno()), pass_fds=(theirs.fileno(),))
        else:
            os.set_inheritable(theirs.fileno(), True)
            process = subprocess.Popen(_program(theirs.fileno()), close_fds=False)
        theirs.close()
        ours.send(orders)
        return Child(ours, process.pid, process.wait)

    return make


def _posix_spawn(orders: child.Orders, guard: Any) -> Child:
    ours, theirs = multiprocessing.Pipe()
    os.set_inheritable(theirs.fileno(), True)
    pid = os.posix_spawn(sys.executable, _program(theirs.fileno()), os.environ)
    theirs.close()
    ours.send(orders)
    return Child(ours, pid, lambda: os.waitpid(pid, 0))


def _multiprocessing(method: str) -> Callable[[child.Orders, Any], Child]:
    def make(orders: child.Orders, guard: Any) -> Child:
        context: Any = multiprocessing.get_context(method)
        ours, theirs = context.Pipe()
        # Only a forked child can be given a guard: it inherits it.
        process = context.Process(target=child.run, args=(theirs, orders, guard if method == "fork" else None))
        process.start()
        theirs.close()
        return Child(ours, process.pid, process.join)

    return make


WAYS: dict[str, Callable[[child.Orders, Any], Child]] = {
    "fork": _fork,
    "subprocess": _popen(True),
    "subprocess, descriptors left open": _popen(False),
    "posix_spawn": _posix_spawn,
    "multiprocessing fork": _multiprocessing("fork"),
    "multiprocessing spawn": _multiprocessing("spawn"),
    "multiprocessing forkserver": _multiprocessing("forkserver"),
}
"""Each makes a child that carries out its orders; a guard that the parent has is given to those who inherit it."""
