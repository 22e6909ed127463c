"""Instances of the run's own: each with a daemon, a process attached to it, and an end that leaves nothing behind."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from benchmark.workers import Child, ChildFailed, say
from wdkmutex_shm import Grt, WdkMutexError

__all__ = ["Client", "attached", "remove_all", "served"]

_TIMEOUT = 120.0
_numbers = count(1)
R = TypeVar("R")


class Client:
    """A process that is attached to an instance and calls functions there.

    Attributes:
        instance: its name.
    """

    def __init__(self, instance: str, child: Child) -> None:
        self.instance = instance
        self._child = child

    def call(self, function: Callable[..., R], *args: Any) -> R:
        """Call a function of a module's top level in that process.

        Raises:
            ChildFailed: it raised there.
        """
        result: R = self._child.ask((function, args))
        return result


def _obey(line: Connection) -> None:
    while True:
        function, args = line.recv()
        say(line, function(*args))


def _serving(instance: str) -> Callable[[Connection], None]:
    def work(line: Connection) -> None:
        Grt.init(instance, timeout=_TIMEOUT)
        try:
            say(line, None)
            _obey(line)
        finally:
            Grt.destroy()

    return work


def _attaching(instance: str) -> Callable[[Connection], None]:
    def work(line: Connection) -> None:
        Grt.init(instance, autostart=False, timeout=_TIMEOUT)
        say(line, None)
        _obey(line)

    return work


@contextmanager
def served() -> Iterator[Client]:
    """A new instance, and a process attached to it that starts the daemon again when it dies. Destroyed at the end."""
    instance = f"bench{os.getpid()}-{next(_numbers)}"
    with Child(_serving(instance)) as child:
        try:
            child.hear()
            yield Client(instance, child)
        finally:
            with contextlib.suppress(ChildFailed):
                child.finish()  # it destroys the instance
            remove_all(os.environ["XDG_RUNTIME_DIR"], instance)


@contextmanager
def attached(instance: str) -> Iterator[Client]:
    """A further process, attached to an instance that is served already."""
    with Child(_attaching(instance)) as child:
        child.hear()
        yield Client(instance, child)


def remove_all(folder: str, instance: str = "*") -> None:
    """Destroy the instances that still have a socket in that runtime folder, which only this run uses."""
    for path in glob.glob(f"{glob.escape(folder)}/wdkmutex/{instance}.sock"):
        name = os.path.basename(path).removesuffix(".sock")
        with contextlib.suppress(WdkMutexError):
            Grt.detach()
            Grt.init(name, timeout=_TIMEOUT)
            Grt.destroy()
