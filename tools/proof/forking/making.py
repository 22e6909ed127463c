"""Cells of the matrix, and what their states are made of: who makes the child, and when."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from wdkmutex_shm import NotOwned
from wdkmutex_shm.memory import shm

from .child import Hold
from .ways import Child

__all__ = [
    "GROWN",
    "PATIENCE",
    "Cell",
    "T",
    "Wrong",
    "by",
    "ending",
    "go_on_in_a_child",
    "holder",
    "in_the_next_creation",
    "in_thread",
]

PATIENCE = 10.0
"""Seconds for whatever is expected to happen."""
T = bytes(8) + b"t" * 20
"""What the mutex of a cell begins with: a count, and a filling."""
GROWN = bytes(8) + b"t" * 400
"""One that needs a data segment."""

Wrong = list["str | None"]
"""What was found wrong; None counts for nothing."""


class Cell(NamedTuple):
    """One cell of the matrix."""

    kind: str
    state: str
    way: str
    thread: str


def by(cell: Cell, make: Callable[[], Child]) -> Child:
    """Make it in the thread that the cell says; this is the main one."""
    return make() if cell.thread == "main" else in_thread(make)


def in_thread(work: Callable[[], Any]) -> Any:
    """Do it in another thread, to its end."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE * 3)
    if thread.is_alive():
        raise TimeoutError("the thread is stuck")
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


@contextlib.contextmanager
def ending(made: Child) -> Iterator[Child]:
    """See to it that a child has ended."""
    try:
        yield made
    finally:
        made.end()


@contextlib.contextmanager
def holder(mutex: Any) -> Iterator[tuple[int, Callable[[], None]]]:
    """A process that holds the lock until it is told to release it."""
    said, say = os.pipe()
    heard, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            hold = Hold(mutex, PATIENCE)
            os.write(say, b"x")
            os.read(heard, 1)
            hold.release()
        finally:
            os._exit(0)
    os.close(heard)
    released = False

    def release() -> None:
        nonlocal released
        if not released:
            os.write(tell, b"x")  # not close(): the children of the matrix have it open as well
            released = True

    try:
        os.read(said, 1)
        yield pid, release
    finally:
        release()
        for fd in (said, say, tell):
            os.close(fd)
        os.waitpid(pid, 0)


@contextlib.contextmanager
def in_the_next_creation(act: Callable[[], None]) -> Iterator[None]:
    """Have ``act`` called when a data segment is made for a growing T: in the midst of a commit."""
    real = shm.create

    def create(name: str, size: int) -> Any:
        shm.create = real
        fd = real(name, size)
        act()
        return fd

    shm.create = create
    try:
        yield
    finally:
        shm.create = real


def go_on_in_a_child(commit: Callable[[], object]) -> str | None:
    """Fork in the midst of a commit, as a signal handler may; the child returns into it. Returns what was wrong."""
    said, say = os.pipe()
    parent = os.getpid()
    child = 0

    def fork_now() -> None:
        nonlocal child
        child = os.fork()
        if child:
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)

    try:
        with in_the_next_creation(fork_now):
            commit()
        if os.getpid() != parent:
            os.write(say, b"the commit went on in the child")
    except NotOwned:
        pass
    except BaseException as error:
        os.write(say, repr(error).encode())
    finally:
        if os.getpid() != parent:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(say)
    with open(said, "rb") as file:
        return file.read().decode() or None
