"""Processes whose end is known for certain: that of multiprocessing's own is concluded, and sometimes wrongly.

* Where SIGCHLD is ignored (or somebody else reaps all children) the kernel keeps no exit status, and multiprocessing
  takes a child that has ended for one that lives.
* Where the fork server was killed, multiprocessing takes all of its children for dead.

Here a process has ended when the kernel says so. If its exit code is lost, it counts as :data:`UNKNOWN`, which is what
multiprocessing says of one whose fork server was killed, too.
"""

from __future__ import annotations

import contextlib
import os
import time
from multiprocessing import context as stock
from multiprocessing import forkserver, popen_fork, popen_forkserver, popen_spawn_posix
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from ..base import identity

__all__ = ["UNKNOWN", "ForkProcess", "ForkServerProcess", "SpawnProcess", "has_ended", "is_code_lost"]

UNKNOWN = 255
_LOOK = 0.02  # seconds between two looks at a process that cannot be waited for
_TRIES = range(50)  # to start a process by a fork server that is being killed


def _start_of(pid: int) -> int | None:
    with contextlib.suppress(OSError):  # no descriptor is free to read /proc with
        return identity.start_time(pid)
    return None


class _Child(popen_fork.Popen):
    """A child that this process waits for."""

    lost = False  # whether its exit code is

    def _launch(self, process_obj: Any) -> None:
        super()._launch(process_obj)  # type: ignore[misc]
        self._parent = os.getpid()
        self._start = _start_of(self.pid)

    def has_ended(self) -> bool:
        return self.returncode is not None or identity.is_dead(self.pid, self._start)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, flag)
            except ChildProcessError:  # it is no child of this process any more: it has ended and was reaped
                if os.getpid() == self._parent:
                    self.returncode, self.lost = UNKNOWN, True
            except OSError:
                return None
            else:
                if pid == self.pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


class _Forked(_Child):
    pass


class _Spawned(_Child, popen_spawn_posix.Popen):
    pass


class _Served(popen_forkserver.Popen):
    """A child of the fork server, which tells how it ended."""

    lost = False
    finalizer: Any
    _fds: list[int]
    _untold = False  # the server has ended, and will not tell

    def _launch(self, process_obj: Any) -> None:
        for tries_left in reversed(_TRIES):
            try:
                super()._launch(process_obj)  # type: ignore[misc]
                self._start = _start_of(self.pid)
                return
            except (ConnectionError, EOFError, ChildProcessError):
                # The server is being killed, or was. A child that it made for this has nothing to run, and ends.
                if not tries_left:
                    raise
                if self.finalizer is not None:
                    self.finalizer()
                    self.finalizer = None
                self._fds = []
                _forget_dead_server()
                time.sleep(_LOOK)

    def has_ended(self) -> bool:
        return self.returncode is not None or identity.is_dead(self.pid, self._start)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        return self._wait(0.0 if flag == os.WNOHANG else None)

    def wait(self, timeout: float | None = None) -> int | None:
        return self._wait(timeout)

    def _wait(self, timeout: float | None) -> int | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if self._untold:
                # Where there is no pidfd the sentinel is ready at once.
                if self.has_ended():
                    self.returncode, self.lost = UNKNOWN, True
                elif left == 0 or not wait([self.sentinel], left):
                    return None
                else:
                    time.sleep(_LOOK)
            elif not wait([self.sentinel], left):
                return None
            else:
                self._ask()
        return self.returncode

    def _ask(self) -> None:
        try:
            self.returncode = forkserver.read_signed(self.sentinel)
        except (OSError, EOFError):
            self._untold = True
            # From now on the process itself is what the sentinel tells of, for whoever waits for that.
            with contextlib.suppress(OSError):
                fd = os.pidfd_open(self.pid)
                try:
                    os.dup2(fd, self.sentinel, False)
                finally:
                    os.close(fd)


def _forget_dead_server() -> None:
    """Let a fork server that has ended be replaced, also where nobody can wait for it."""
    server: Any = forkserver._forkserver
    with server._lock:
        pid = server._forkserver_pid
        if pid is None:
            return
        try:
            ended, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            ended = pid
        if ended:
            os.close(server._forkserver_alive_fd)
            server._forkserver_address = server._forkserver_alive_fd = server._forkserver_pid = None


class ForkProcess(stock.ForkProcess):
    """A forked process."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802
        return _Forked(process_obj)


class SpawnProcess(stock.SpawnProcess):
    """A process that is a new interpreter."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802
        return _Spawned(process_obj)


class ForkServerProcess(stock.ForkServerProcess):
    """A process that the fork server forks."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802
        return _Served(process_obj)


def has_ended(worker: BaseProcess) -> bool:
    """Whether a process that was started has ended, by the word of the kernel; its exit code may not be known yet."""
    popen = worker._popen  # type: ignore[attr-defined]
    return popen is not None and bool(popen.has_ended())


def is_code_lost(worker: BaseProcess) -> bool:
    """Whether the exit code of a process that has ended is lost."""
    return bool(worker._popen.lost)  # type: ignore[attr-defined]
