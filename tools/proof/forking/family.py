"""A parent in a cell of the matrix, and the child that it makes: by whom it is made, and when."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from wdkmutex_shm import NotOwned
from wdkmutex_shm.memory import shm

from ..base.children import fork
from .child import Hold, Orders
from .ways import WAYS, Child

PATIENCE = 10.0
"""Seconds for whatever is expected to happen."""
T = bytes(8) + b"t" * 20
"""What the mutex of a cell begins with: a count, and a filling."""
GROWN = bytes(8) + b"t" * 400
"""One that needs a data segment."""


class Cell(NamedTuple):
    """One cell of the matrix."""

    kind: str
    state: str
    way: str
    thread: str


def _in_thread(work: Callable[[], object]) -> None:
    """Do it in another thread, to its end."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE * 3)
    if thread.is_alive():
        raise TimeoutError("the thread is stuck")
    if failed:
        raise failed[0]


class Family:
    """The two of them.

    Attributes:
        cell: what is tried.
        mutex: what it is about.
        wrong: what was found wrong.
    """

    def __init__(self, cell: Cell, mutex: Any) -> None:
        self.cell = cell
        self.mutex = mutex
        self.wrong: list[str] = []
        self._child: Child | None = None

    def note(self, wrong: str | None) -> None:
        """Remember what is wrong, unless that is nothing."""
        if wrong:
            self.wrong.append(wrong)

    def lost(self, *mutexes: Any) -> None:
        """The parent must have these still."""
        if any(mutex.owner is None for mutex in mutexes):
            self.note("the parent lost a lock")

    def in_its_thread(self, work: Callable[[], object]) -> None:
        """Do it in the thread that the cell says; this is the main one."""
        if self.cell.thread == "main":
            work()
        else:
            _in_thread(work)

    def make(self, guard: Any = None, *, state: str = "held", holder: int | None = None) -> None:
        """Make the child, in this thread, and hear what it has found."""
        self._child = WAYS[self.cell.way](Orders(self.mutex, state, holder or os.getpid(), T), guard)
        self.note(self._child.hear())

    def make_in_its_thread(self, guard: Any = None, *, holder: int | None = None) -> None:
        """Make it in the thread that the cell says."""
        self.in_its_thread(lambda: self.make(guard, holder=holder))

    def make_while(self, wait: Callable[[], object], make: Callable[[], object]) -> None:
        """Make it while a thread waits: by that thread's signal handler, or beside it."""
        if self.cell.thread == "main":
            before = signal.signal(signal.SIGALRM, lambda number, frame: make())
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.01)
                wait()
            finally:
                signal.signal(signal.SIGALRM, before)
            return
        waiter = threading.Thread(target=wait)
        waiter.start()
        make()
        waiter.join(PATIENCE)
        if waiter.is_alive():
            self.note("the waiting thread is stuck")

    def finish(self) -> None:
        """The lock is free: let the child lock as well, and end."""
        assert self._child is not None
        self._child.tell()
        self.note(self._child.hear())

    def end(self) -> None:
        """See to it that the child has ended."""
        if self._child is not None:
            self._child.end()


@contextlib.contextmanager
def another_holder(mutex: Any) -> Iterator[tuple[int, Callable[[], None]]]:
    """A process that holds the lock until it is told to release it."""
    said, say = os.pipe()
    heard, tell = os.pipe()

    def live() -> None:
        hold = Hold(mutex, PATIENCE)
        os.write(say, b"x")
        os.read(heard, 1)
        if hold.guard is not None:
            hold.guard.drop_safe()
        else:
            mutex.leave()

    pid = fork(live)
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
    """Have ``act`` called when a data segment is made for a growing T: inside a commit."""
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
    """Fork inside a commit, as a signal handler may; the child returns into it. Returns what was wrong."""
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
