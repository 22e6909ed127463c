"""Instances of the tools' own: made, removed by all means, and looked at from outside."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator

import psutil

from wdkmutex_shm import Grt
from wdkmutex_shm.base.names import instance_prefix
from wdkmutex_shm.engines.local.client import connect
from wdkmutex_shm.errors import WdkMutexError
from wdkmutex_shm.grt import session
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool import sweep
from wdkmutex_shm.pool.pool import Pool

NOBODY = 65534
ROOT = os.geteuid() == 0


def segments(name: str) -> list[str]:
    """Names of the segments of an instance."""
    return shm.listing(instance_prefix(name) + ".")


def daemon_of(name: str) -> int:
    """Process id of the daemon that serves an instance."""
    with connect(name) as client:
        return int(client.daemon["pid"])


def rss(pid: int) -> int:
    """Resident memory of a process in bytes, without the shared memory that it has mapped."""
    memory = psutil.Process(pid).memory_info()
    return int(memory.rss - memory.shared)


def end_daemon(pid: int, name: str, number: int = signal.SIGKILL) -> None:
    """End a daemon of the tool's own and wait for its end. Another process that has its pid by now is left alone."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if name in psutil.Process(pid).cmdline():
                signal.pidfd_send_signal(fd, number)
                select.select([fd], [], [], 30.0)
    finally:
        os.close(fd)


def remove_instance(name: str) -> None:
    """Destroy an instance by all means: through its daemon, else by hand. Only for names that the tool made up."""
    session.leave()
    server = None
    with contextlib.suppress(WdkMutexError):
        server = Pool.server_of(instance_prefix(name))
    try:
        with connect(name, timeout=5.0) as client:
            client.call("destroy")
    except WdkMutexError:
        pass
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "--instance" in words and name in words:
                end_daemon(process.pid, name)
    if server is not None:
        end_daemon(server[0], name)
    for segment in segments(name):
        with contextlib.suppress(OSError):
            shm.unlink(segment)
    folder = os.path.join(os.environ["XDG_RUNTIME_DIR"], "wdkmutex")
    for suffix in ("sock", "lock", "start.lock", "log"):
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, f"{name}.{suffix}"))


def ending_of(work: Callable[[], object]) -> tuple[str, str]:
    """The class and the words of the error of ours that work ends with; ``well`` and what it returned if with none."""
    try:
        return "well", repr(work())[:50]
    except WdkMutexError as error:
        return type(error).__name__, f"{error.name} {error}"


@contextlib.contextmanager
def instance(name: str) -> Iterator[str]:
    """An instance to which this process is attached while the ``with`` lasts."""
    Grt.init(name)
    try:
        yield name
    finally:
        remove_instance(name)
        sweep.dead_private_pools()
