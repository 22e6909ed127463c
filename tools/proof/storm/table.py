"""What a worker does next: how likely each deed is, and what it is done to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from . import bank, multi, operations, relay, tasks, types
from .book import Book
from .counts import deed
from .deadlocks import cross, look_at_waiters

if TYPE_CHECKING:
    from .worker import Worker

__all__ = ["choose"]

_ONE: tuple[tuple[float, str, Callable[[Worker, Book, Any], object]], ...] = (
    (10, "commit", operations.commit),
    (3, "commit nested", operations.commit_nested),
    (2, "commit twice", operations.commit_twice),
    (2, "commit by dropping the guard", operations.commit_by_dropping),
    (2, "try_lock", operations.try_lock),
    (3, "rollback", operations.fail),
    (2, "two locks in any order", cross),
    (1, "fork while holding", operations.fork),
    (5, "peek", operations.peek),
    (0.5, "pickle", operations.pickled),
    (0.5, "tasks of an event loop", tasks.run_tasks),
    (0.5, "waiters looked at", look_at_waiters),
)
"""What is done to one book, that is no critical section."""

_MORE: tuple[tuple[float, str, Callable[[Worker], object]], ...] = (
    (6, "lock_all: transfer", bank.transfer),
    (3, "lock_all: two counters", bank.move),
    (0.5, "fork in lock_all", bank.fork),
    (3, "lock_all: books", multi.commit_together),
    (3, "lock_any", multi.commit_any),
    (4, "value told", relay.tell),
    (1, "lock_when", relay.lock_when),
    (1, "wait_for", relay.wait_for),
    (1, "guard.wait_for", relay.wait_in_guard),
    (0.5, "changes", relay.follow),
    (3, "mp.Lock", types.lock),
    (2, "mp.Value", types.value),
    (2, "mp.Semaphore", types.semaphore),
    (1, "mp.Condition: told", types.tell),
    (0.5, "mp.Condition: waited", types.wait),
    (3, "mp.Queue: put", types.put),
    (3, "mp.Queue: taken", types.take),
)
"""What chooses for itself what it is done to."""

_SHARE = 0.4
"""How often it is one of these."""
_OWN = 0.02
_TURNOVER = 0.03


def choose(worker: Worker) -> tuple[Book, str, Callable[[], object]]:
    """Return a book, what a deed is counted as, and the deed, which returns False if it came to nothing."""
    chance = worker.chance
    book = chance.choice(worker.world.books)
    if chance.random() < _SHARE:
        (_, name, more) = chance.choices(_MORE, [weight for weight, _, _ in _MORE])[0]
        return book, deed(name), partial(more, worker)
    if book.renewed and chance.random() < _TURNOVER:
        return book, deed("registered anew"), partial(operations.register_anew, worker, book)
    if book.kind == "section":
        return book, deed("critical section"), partial(operations.section, worker, book)
    if chance.random() < _OWN:
        return book, deed("a mutex of its own"), partial(operations.own, worker)
    (_, name, one) = chance.choices(_ONE, [weight for weight, _, _ in _ONE])[0]
    return book, deed(name), lambda: one(worker, book, worker.handle(book))
