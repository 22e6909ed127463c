"""What the storm's own operations may ask of the worker that does them, besides what any operation may."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

from ..operations.actor import Actor
from .ledger import Page
from .setup import Book, World

LOCK = "longest wait, microseconds"
VALUE = "longest wait for a value, microseconds"
TYPE = "longest wait for a type of multiprocessing, microseconds"


class News(NamedTuple):
    """A T of a relay that is waited for: one that was made later than this.

    Attributes:
        relay: which one. begun: when, as :meth:`Keeper.now` says.
        followed: the times of those that were seen since.
    """

    relay: Book
    begun: tuple[int, int]
    followed: list[int]

    def __call__(self, value: Any) -> bool:
        return (value[-1] if isinstance(value, list) else int(value)) > self.begun[0]


class Keeper(Actor):
    """A worker of the storm; its places are books.

    Attributes:
        world: what it shares with the others.
        number: of the worker.
        parent: pid of the storm's coordinator.
    """

    world: World
    number: int
    parent: int

    def use(self, book: Book, handle: Any) -> None:
        """From now on use this handle for a book."""

    def register(self, book: Book, *, checked: bool) -> None:
        """Register a book, as one that begins."""

    def verify(self, book: Book, value: Any) -> Page:
        """Read a T and compare it with what is known. Raises TornError if it is not whole."""
        raise NotImplementedError

    def now(self) -> tuple[int, int]:
        """When something begins that must not take long, for :meth:`waited`."""
        raise NotImplementedError

    def waited(self, name: str, begun: tuple[int, int], what: str = LOCK) -> None:
        """Say how long it took, not counting the time in which nobody can be blamed for it."""

    def timed(self, name: str) -> contextlib.AbstractContextManager[None]:
        """What is done in this ``with`` must not take long; of a type of multiprocessing."""
        raise NotImplementedError

    def took(self, putter: int, number: int) -> None:
        """An item was taken out of the queue."""

    def note_deadlock(self, error: Any) -> None:
        """A wait of this worker closed a cycle."""
