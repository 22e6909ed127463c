"""Several books at once: committed together, or whichever is free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wdkmutex_shm import SectionGuard, lock_any
from wdkmutex_shm.errors import MutexDestroyed

from .book import Book, OopsError, undisturbed
from .ledger import Page
from .operations import in_section

if TYPE_CHECKING:
    from .worker import Worker

__all__ = ["commit_any", "commit_together"]

_TIMEOUT = 10.0
_MOST = 4
_FAILS = 0.1  # how often the change of several is rolled back


def _some(worker: Worker, *, sections: bool) -> list[Book]:
    books = [book for book in worker.world.books if sections or book.kind != "section"]
    return worker.chance.sample(books, min(len(books), worker.chance.randrange(2, _MOST + 1)))


def commit_together(worker: Worker) -> None:
    """The next commit in each of some books, all of them or none."""
    books = _some(worker, sections=False)
    following: list[tuple[Book, Page]] = []
    try:
        with worker.lock_all(*map(worker.handle, books)) as guards:
            for book, guard in zip(books, guards, strict=True):
                found = worker.next(book, guard.value)
                if found:
                    guard.value = found[0]
                    following.append((book, found[1]))
            if worker.chance.random() < _FAILS:
                raise OopsError
    except OopsError:
        worker.count("rollbacks")
        return
    except MutexDestroyed:
        worker.forget(*books)
        return
    for book, page in following:
        worker.done(book, page)


def commit_any(worker: Worker) -> None:
    """The next commit in whichever of some books is free first."""
    books = _some(worker, sections=True)
    handles = [worker.handle(book) for book in books]
    try:
        if any(book.kind == "section" for book in books):
            with undisturbed():  # as for a section by itself
                _commit_any(worker, books, handles)
        else:
            _commit_any(worker, books, handles)
    except MutexDestroyed:
        worker.forget(*books)


def _commit_any(worker: Worker, books: list[Book], handles: list[Any]) -> None:
    begun = worker.now()
    index, hold = lock_any(*handles, timeout=_TIMEOUT)
    book, following = books[index], None
    with hold:
        worker.waited(book.name, begun)
        worker.note_abandoned(hold)
        if isinstance(hold, SectionGuard):
            in_section(worker, hold)
        else:
            following = worker.next(book, hold.value)
            if following:
                hold.value = following[0]
    if following:
        worker.done(book, following[1])
