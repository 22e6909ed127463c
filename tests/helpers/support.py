"""What tests of several modules need: waiting with a deadline, children that surely end, daemons that surely die."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import psutil

from wdkmutex_shm.base.names import instance_prefix
from wdkmutex_shm.engines.local.client import connect
from wdkmutex_shm.errors import WdkMutexError
from wdkmutex_shm.grt import session
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool.pool import Pool

DEADLINE = 30.0
"""Seconds that anything may take that is expected to happen."""

SPAWN = multiprocessing.get_context("spawn")


def wait_until(happened: Callable[[], Any], what: str = "", seconds: float = DEADLINE) -> Any:
    """Poll until ``happened`` returns something true, and return that; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        result = happened()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {seconds:g} s: {what or happened}")
        time.sleep(0.005)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal that ends a process, and wait until it has ended (as a zombie at least)."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError as error:
        if error.errno != errno.ENOSYS:  # as under valgrind
            raise
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        wait_until(lambda: _has_ended(pid), f"pid {pid} ends after signal {number}")
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        assert select.select([fd], [], [], DEADLINE)[0], f"pid {pid} does not end after signal {number}"
    finally:
        os.close(fd)


def _has_ended(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


class Fork:
    """A forked child that runs a function of no arguments and reports what it returned or raised.

    ``result()`` waits for it. A child that is still alive when the ``with`` is left is killed.

    Args:
        work: the function.
        fork: forks.
    """

    def __init__(self, work: Callable[[], Any], fork: Callable[[], int] = os.fork) -> None:
        self._receive, send = multiprocessing.Pipe(duplex=False)
        self.pid = fork()
        if self.pid == 0:
            code = 1
            try:
                self._receive.close()
                try:
                    send.send((True, work()))
                except BaseException as error:
                    traceback.print_exc()
                    send.send((False, error))
                send.close()
                code = 0
            finally:
                os._exit(code)
        send.close()
        self._ended = False

    def result(self, seconds: float = DEADLINE) -> Any:
        """What the function returned; what it raised is raised here."""
        assert self._receive.poll(seconds), f"child {self.pid} reports nothing within {seconds:g} s"
        succeeded, value = self._receive.recv()
        self.end()
        if succeeded:
            return value
        raise value

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it with a signal."""
        kill(self.pid, number)
        self.end()

    def end(self) -> None:
        """Wait for its end."""
        if not self._ended:
            kill(self.pid, 0)
            os.waitpid(self.pid, 0)
            self._receive.close()
            self._ended = True

    def __enter__(self) -> Fork:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._ended:
            self.kill()


@contextlib.contextmanager
def spawned(target: Callable[..., Any], *args: Any) -> Iterator[Any]:
    """A process that runs ``target`` (a function of a module's top level) in a new interpreter; killed at the end."""
    process = SPAWN.Process(target=target, args=args, daemon=True)
    process.start()
    try:
        yield process
    finally:
        if process.is_alive():
            process.kill()
        process.join(DEADLINE)
        process.close()


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def daemon_pid(instance: str) -> int:
    """Process id of the daemon that serves an instance."""
    with connect(instance) as client:
        return int(client.daemon["pid"])


def kill_daemon(instance: str) -> int:
    """Kill the daemon of an instance with SIGKILL and return what its pid was."""
    pid = daemon_pid(instance)
    kill(pid)
    return pid


def segments(instance: str) -> list[str]:
    """Names of the segments of an instance."""
    return shm.listing(instance_prefix(instance) + ".")


def remove_instance(instance: str) -> None:
    """Destroy an instance by all means: through its daemon, else by hand.

    Only for an instance whose name the calling test has made up, so that all that bears the name is the test's.
    """
    session.leave()
    try:
        with connect(instance, timeout=5.0) as client:
            pid = int(client.daemon["pid"])
            client.call("destroy")
        wait_until(lambda: gone(pid), f"end of daemon {pid}")
    except WdkMutexError:
        server = Pool.server_of(instance_prefix(instance))
        if server is not None and not gone(server[0]):
            with contextlib.suppress(psutil.NoSuchProcess):
                if instance in psutil.Process(server[0]).cmdline():  # not another process that has the pid by now
                    kill(server[0])
        for name in segments(instance):
            shm.unlink(name)
