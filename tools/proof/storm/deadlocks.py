"""Who waits for whom: two locks in whatever order, which others take in the other order; and who is said to wait."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from wdkmutex_shm.errors import DeadlockError

from .book import Book, parent_of

if TYPE_CHECKING:
    from .worker import Worker

__all__ = ["cross", "look_at_waiters"]

_WHILE = 0.002  # seconds for which a lock is held, so that others have time to want it


def cross(worker: Worker, book: Book, mutex: Any) -> bool:
    """Whoever closes a circle is told, and lets go; nobody waits for ever, as every wait of a worker is timed."""
    other = worker.chance.choice(worker.world.books)
    if other is book or other.kind == "section":
        return False
    second = worker.handle(other)
    try:
        with worker.lock(mutex) as guard:
            worker.verify(book, guard.value)
            if worker.chance.random() < 0.5:
                time.sleep(_WHILE)
            with worker.lock(second) as guard:
                worker.verify(other, guard.value)
    except DeadlockError as error:
        worker.note_circle(error)
    return True


def look_at_waiters(worker: Worker, book: Book, mutex: Any) -> None:
    """While it is held, those who are said to wait for it are workers of this storm, and not this one."""
    with worker.lock(mutex) as guard:
        worker.verify(book, guard.value)
        time.sleep(_WHILE)
        for waiter in mutex.waiters():
            worker.count("waiters told")
            if waiter.pid == os.getpid() or parent_of(waiter.pid) not in (worker.parent, None):
                worker.log.broken("who is said to wait is another worker", mutex=book.name, waiter=str(waiter))
