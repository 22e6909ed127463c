"""A child made in every way, by every thread, in every state of every kind of mutex."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from wdkmutex_shm import CriticalSection, FastMutex, KMutex, NotOwned, private, shm

from ..harness import Proof
from .child import Hold
from .ways import WAYS, Child

__all__ = ["Cell", "cells", "try_cell"]

_PATIENCE = 10.0
_KINDS: dict[str, Any] = {"fast": FastMutex, "k": KMutex, "section": CriticalSection}
_STATES = ("free", "die", "holding", "waiting", "committing", "committing, child goes on")
_T = bytes(8) + b"t" * 20
_GROWN = bytes(8) + b"t" * 400


class Cell(NamedTuple):
    """One cell of the matrix."""

    kind: str
    state: str
    way: str
    thread: str


def cells(chance: random.Random) -> list[Cell]:
    """All cells in random order, those first whose children are made fast."""
    found = [
        Cell(kind, state, way, thread)
        for kind, state, way, thread in itertools.product(_KINDS, _STATES, WAYS, ("main", "other"))
        if not (kind == "section" and state.startswith("committing"))
        and not (state.endswith("goes on") and (way != "fork" or thread != "main"))
    ]
    chance.shuffle(found)
    return sorted(found, key=lambda cell: "fork" not in cell.way or "server" in cell.way)


def try_cell(proof: Proof, cell: Cell) -> None:
    """Make the child and see that parent and child find what they should."""
    mutex = CriticalSection() if cell.kind == "section" else _KINDS[cell.kind](_T)
    try:
        wrong = _STATE_OF[cell.state](cell, mutex)
    except Exception as error:
        wrong = [repr(error)]
    wrong += _finish(cell, mutex)
    found = "; ".join(each for each in wrong if each) or None
    promise = "what a child inherits it does not own, and nobody gets stuck"
    proof.expect(found is None, promise, **cell._asdict(), wrong=found)
    proof.counts["cells"] += 1


def _finish(cell: Cell, mutex: Any) -> list[str | None]:
    """The lock is free in the end, T has what everybody added, and nothing is left."""
    wrong: list[str | None] = []
    try:
        hold = Hold(mutex, _PATIENCE)
        if hold.abandoned:
            wrong.append("somebody died holding the lock")
        count = int.from_bytes(hold.guard.value[:8], "big") if hold.guard is not None else None
        hold.release()
        if count is not None and count != _ADDED[cell.state]:
            wrong.append(f"{count} were added to T, not {_ADDED[cell.state]}")
        if cell.kind == "section":
            mutex._vacate()
            mutex._collect()
        else:
            mutex.to_owned()
        left = shm.listing(private.the_pool().prefix + ".d")
        if left:
            wrong.append(f"data segments are left: {left}")
    except Exception as error:
        wrong.append(f"in the end: {error!r}")
    return wrong


_ADDED = {"free": 2, "die": 1, "holding": 2, "waiting": 2, "committing": 2, "committing, child goes on": 1}


# --- who makes the child


def _by(cell: Cell, make: Callable[[], Child]) -> Child:
    """Make it in the thread that the cell says; this is the main one."""
    return make() if cell.thread == "main" else _in_thread(make)


def _in_thread(work: Callable[[], Any]) -> Any:
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(_PATIENCE * 3)
    if thread.is_alive():
        raise TimeoutError("the thread is stuck")
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


@contextlib.contextmanager
def _ending(made: Child) -> Iterator[Child]:
    try:
        yield made
    finally:
        made.end()


# --- the states. Each returns what was wrong.


def _free(cell: Cell, mutex: Any) -> list[str | None]:
    """The child takes the lock while nobody has it; and dies with it, where the cell says so."""
    with _ending(_by(cell, lambda: WAYS[cell.way]((mutex, cell.state, None, _T), None))) as made:
        wrong = [made.hear()]
    hold = Hold(mutex, _PATIENCE)
    if hold.abandoned != (cell.state == "die"):
        wrong.append(f"abandoned is {hold.abandoned}")
    hold.add(1)
    hold.release()
    return wrong


def _holding(cell: Cell, mutex: Any) -> list[str | None]:
    """The thread that makes the child holds the lock."""

    def work() -> list[str | None]:
        hold = Hold(mutex, _PATIENCE)
        with _ending(WAYS[cell.way]((mutex, "held", os.getpid(), _T), hold.guard)) as made:
            wrong = [made.hear()]
            if mutex.owner is None:
                wrong.append("the parent lost the lock")
            hold.add(1)
            hold.release()
            made.tell()
            wrong.append(made.hear())
        return wrong

    found: list[str | None] = work() if cell.thread == "main" else _in_thread(work)
    return found


def _waiting(cell: Cell, mutex: Any) -> list[str | None]:
    """A thread waits for the lock, which another process holds; a child is made by its signal handler, or beside it."""
    with _holder(mutex) as (pid, release):
        orders = (mutex, "held", pid, _T)
        made: list[Child] = []
        wrong: list[str | None] = []

        def wait() -> None:
            hold = Hold(mutex, _PATIENCE)
            hold.add(1)
            hold.release()

        if cell.thread == "main":

            def handle(number: int, frame: object) -> None:
                made.append(WAYS[cell.way](orders, None))
                wrong.append(made[0].hear())
                release()

            before = signal.signal(signal.SIGALRM, handle)
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.01)
                wait()
            finally:
                signal.signal(signal.SIGALRM, before)
        else:
            waiter = threading.Thread(target=wait)
            waiter.start()
            made.append(WAYS[cell.way](orders, None))
            wrong.append(made[0].hear())
            release()
            waiter.join(_PATIENCE)
            if waiter.is_alive():
                wrong.append("the waiting thread is stuck")
        with _ending(made[0]):
            made[0].tell()
            wrong.append(made[0].hear())
        return wrong


@contextlib.contextmanager
def _holder(mutex: Any) -> Iterator[tuple[int, Callable[[], None]]]:
    """A process that holds the lock until it is told to release it."""
    said, say = os.pipe()
    heard, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            hold = Hold(mutex, _PATIENCE)
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
def _in_the_next_creation(act: Callable[[], None]) -> Iterator[None]:
    """Have ``act`` called when a data segment is made for a growing T: in the midst of a commit."""
    real = shm.create

    def create(name: str, size: int) -> int:
        shm.create = real
        fd = real(name, size)
        act()
        return fd

    shm.create = create
    try:
        yield
    finally:
        shm.create = real


def _committing(cell: Cell, mutex: Any) -> list[str | None]:
    """A commit is under way in the thread that makes the child, or in another one."""
    made: list[Child] = []
    wrong: list[str | None] = []
    guard = mutex.lock(_PATIENCE)
    guard.value = (1).to_bytes(8, "big") + _GROWN[8:]

    def fork_now() -> None:
        orders = (mutex, "held", os.getpid(), _T)
        made.append(_by(cell, lambda: WAYS[cell.way](orders, guard)))
        wrong.append(made[0].hear())

    with _in_the_next_creation(fork_now):
        guard.commit()
    guard.drop_safe()
    with _ending(made[0]):
        made[0].tell()
        wrong.append(made[0].hear())
    return wrong


def _child_goes_on(cell: Cell, mutex: Any) -> list[str | None]:
    """A signal handler forks in the midst of a commit, and the child returns from it: the commit is the parent's."""
    said, say = os.pipe()
    parent = os.getpid()
    guard = mutex.lock(_PATIENCE)
    guard.value = (1).to_bytes(8, "big") + _GROWN[8:]
    child = 0

    def fork_now() -> None:
        nonlocal child
        child = os.fork()
        if child:
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)

    try:
        with _in_the_next_creation(fork_now):
            guard.commit()
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
        heard = file.read().decode()
    wrong: list[str | None] = [heard or None]
    if mutex.owner is None:
        wrong.append("the parent lost the lock")
    guard.drop_safe()
    if mutex.peek()[8:] != _GROWN[8:]:
        wrong.append(f"T is {mutex.peek()!r}")
    return wrong


_STATE_OF: dict[str, Callable[[Cell, Any], list[str | None]]] = {
    "free": _free,
    "die": _free,
    "holding": _holding,
    "waiting": _waiting,
    "committing": _committing,
    "committing, child goes on": _child_goes_on,
}
