"""The states of one mutex in which a child is made. Each returns what was wrong."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from .child import Hold, raised
from .making import (
    GROWN,
    PATIENCE,
    Cell,
    T,
    Wrong,
    by,
    ending,
    go_on_in_a_child,
    holder,
    in_the_next_creation,
    in_thread,
)
from .ways import WAYS, Child

__all__ = ["STATES"]


def _free(cell: Cell, mutex: Any) -> Wrong:
    """The child takes the lock while nobody has it; and dies with it, where the cell says so."""
    with ending(by(cell, lambda: WAYS[cell.way]((mutex, cell.state, None, T), None))) as made:
        wrong = [made.hear()]
    hold = Hold(mutex, PATIENCE)
    if hold.abandoned != (cell.state == "die"):
        wrong.append(f"abandoned is {hold.abandoned}")
    hold.add(1)
    hold.release()
    return wrong


def _holding(cell: Cell, mutex: Any) -> Wrong:
    """The thread that makes the child holds the lock."""

    def work() -> Wrong:
        hold = Hold(mutex, PATIENCE)
        with ending(WAYS[cell.way]((mutex, "held", os.getpid(), T), hold.guard)) as made:
            wrong = [made.hear()]
            if mutex.owner is None:
                wrong.append("the parent lost the lock")
            hold.add(1)
            hold.release()
            made.tell()
            wrong.append(made.hear())
        return wrong

    found: Wrong = work() if cell.thread == "main" else in_thread(work)
    return found


def _waiting(cell: Cell, mutex: Any) -> Wrong:
    """A thread waits for the lock, which another process holds; a child is made by its signal handler, or beside it."""
    with holder(mutex) as (pid, release):
        orders = (mutex, "held", pid, T)
        made: list[Child] = []
        wrong: Wrong = []

        def wait() -> None:
            hold = Hold(mutex, PATIENCE)
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
            waiter.join(PATIENCE)
            if waiter.is_alive():
                wrong.append("the waiting thread is stuck")
        with ending(made[0]):
            made[0].tell()
            wrong.append(made[0].hear())
        return wrong


def _committing(cell: Cell, mutex: Any) -> Wrong:
    """A commit is under way in the thread that makes the child, or in another one."""
    made: list[Child] = []
    wrong: Wrong = []
    guard = mutex.lock(PATIENCE)
    guard.value = raised(GROWN)

    def fork_now() -> None:
        orders = (mutex, "held", os.getpid(), T)
        made.append(by(cell, lambda: WAYS[cell.way](orders, guard)))
        wrong.append(made[0].hear())

    with in_the_next_creation(fork_now):
        guard.commit()
    guard.drop_safe()
    with ending(made[0]):
        made[0].tell()
        wrong.append(made[0].hear())
    return wrong


def _child_goes_on(cell: Cell, mutex: Any) -> Wrong:
    """A signal handler forks in the midst of a commit, and the child returns from it: the commit is the parent's."""
    guard = mutex.lock(PATIENCE)
    guard.value = raised(GROWN)
    wrong = [go_on_in_a_child(guard.commit)]
    if mutex.owner is None:
        wrong.append("the parent lost the lock")
    guard.drop_safe()
    if mutex.peek()[8:] != GROWN[8:]:
        wrong.append(f"T is {mutex.peek()!r}")
    return wrong


STATES: dict[str, Callable[[Cell, Any], Wrong]] = {
    "free": _free,
    "die": _free,
    "holding": _holding,
    "waiting": _waiting,
    "committing": _committing,
    "committing, child goes on": _child_goes_on,
}
