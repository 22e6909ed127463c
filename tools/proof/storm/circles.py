"""A deed of the storm's workers: two locks in whatever order, which others take in the other order at the same time."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from wdkmutex_shm.errors import DeadlockError

from .book import Book

if TYPE_CHECKING:
    from .worker import Worker

__all__ = ["cross"]

_WHILE = 0.002  # seconds for which the first is held, so that others have time for the other one


def cross(worker: Worker, book: Book, mutex: Any) -> None:
    """Whoever closes a circle is told, and lets go; nobody waits for ever, as every wait of a worker is timed."""
    other = worker.chance.choice(worker.books)
    if other is book or other.kind == "section":
        return
    second = worker.handle(other)
    try:
        with worker.lock(mutex) as guard:
            worker.verify(book, guard.value)
            if worker.chance.random() < 0.5:
                time.sleep(_WHILE)
            with worker.lock(second) as guard:
                worker.verify(other, guard.value)
    except DeadlockError as error:
        worker.board.count(worker.number, "circles named")
        chain = error.chain
        if len(chain) < 2 or chain[0].pid != os.getpid() or len({link.tid for link in chain}) != len(chain):
            worker.log.broken("a circle is one of several threads, this one first", chain=str(chain))
