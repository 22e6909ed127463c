"""What the storm's workers do to one mutex."""

from __future__ import annotations

import os
import pickle
import time
from typing import TYPE_CHECKING, Any

from wdkmutex_shm import Grt, KMutex
from wdkmutex_shm.errors import MutexDestroyed, NotOwned

from .book import Book, OopsError, undisturbed
from .ledger import DictLedger

if TYPE_CHECKING:
    from .worker import Worker

__all__ = [
    "commit",
    "commit_by_dropping",
    "commit_nested",
    "commit_twice",
    "fail",
    "fork",
    "forked",
    "in_section",
    "own",
    "peek",
    "pickled",
    "register_anew",
    "section",
    "try_lock",
]

_TIMEOUT = 10.0
_ORPHANED = 5.0  # seconds within which a child learns that its parent was killed


def commit(worker: Worker, book: Book, mutex: Any) -> None:
    with worker.lock(mutex) as guard:
        following = worker.next(book, guard.value)
        if following:
            guard.value = following[0]
    if following:
        worker.done(book, following[1])


def commit_nested(worker: Worker, book: Book, mutex: Any) -> bool:
    if book.kind != "k":
        return False
    with worker.lock(mutex) as outer:
        following = worker.next(book, outer.value)
        with worker.lock(mutex) as inner:
            if following:
                inner.value = following[0]
        try:
            with worker.lock(mutex) as inner:
                assert book.ledger is not None
                inner.value = book.ledger.spoiled(inner.value)
                raise OopsError
        except OopsError:
            pass
    if following:
        worker.done(book, following[1])
    return True


def commit_twice(worker: Worker, book: Book, mutex: Any) -> None:
    with worker.lock(mutex) as guard:
        following = worker.next(book, guard.value)
        if not following:
            return
        guard.value = following[0]
        guard.commit()
        worker.done(book, following[1])
        following = worker.next(book, guard.value)
        if following:
            guard.value = following[0]
    if following:
        worker.done(book, following[1])


def commit_by_dropping(worker: Worker, book: Book, mutex: Any) -> bool:
    if isinstance(book.ledger, DictLedger):
        return False  # an exception amid a change in place would commit the half of it: that is what `with` is for
    guard = worker.lock(mutex)
    following = worker.next(book, guard.value)
    worker.lost = False
    if following:
        guard.value = following[0]
    del guard
    if following:
        if worker.lost:
            raise KeyboardInterrupt  # it came while the guard went, and was only reported; begin again
        worker.done(book, following[1])
    return True


def try_lock(worker: Worker, book: Book, mutex: Any) -> bool:
    guard = mutex.try_lock()
    if guard is None:
        return False
    with guard:
        worker.note_abandoned(guard)
        worker.verify(book, guard.value)
    return True


def fail(worker: Worker, book: Book, mutex: Any) -> None:
    assert book.ledger is not None
    try:
        with worker.lock(mutex) as guard:
            guard.value = book.ledger.spoiled(guard.value)
            raise OopsError
    except OopsError:
        worker.count("rollbacks")


def peek(worker: Worker, book: Book, mutex: Any) -> None:
    worker.verify(book, mutex.peek())
    worker.count("peeks")


def pickled(worker: Worker, book: Book, mutex: Any) -> None:
    if book.handle is None:
        worker.use(book, pickle.loads(pickle.dumps(mutex)))


def own(worker: Worker) -> None:
    """A mutex of this process alone, which its death leaves in shared memory."""
    mutex = KMutex(worker.chance.randbytes(worker.chance.randrange(200)))
    with mutex.lock() as guard:
        guard.value = value = guard.value * 2
    if mutex.peek() != value:
        worker.log.broken("a commit is seen", mutex="anonymous")


def register_anew(worker: Worker, book: Book) -> None:
    if worker.chance.random() < 0.5:
        worker.register(book, checked=False)
    else:
        Grt.unregister(book.name)


def section(worker: Worker, book: Book) -> None:
    entered = worker.handle(book)
    # A Ctrl-C between the two numbers would leave them unequal, as any program's data.
    with undisturbed():
        begun = worker.now()
        entered.enter(_TIMEOUT)
        worker.waited(book.name, begun)
        in_section(worker, entered)
        entered.leave()


def in_section(worker: Worker, hold: Any, left: str = "left", right: str = "right") -> None:
    """Find two numbers equal, or be told that somebody died in here; and write two others that are."""
    board = worker.board
    found = board.word(left), board.word(right)
    if found[0] != found[1] and not hold.abandoned:
        worker.log.broken("who comes in is alone, or told that its predecessor died", pair=found, what=left)
    number = max(found) + 1
    board.set_word(left, number)
    if worker.chance.random() < 0.5:
        time.sleep(0.0005)
    board.set_word(right, number)


def fork(worker: Worker, book: Book, mutex: Any) -> None:
    with worker.lock(mutex) as guard:
        following = worker.next(book, guard.value)
        forked(worker, book.name, mutex, guard)
        if following:
            guard.value = following[0]
    worker.count("forks while holding")
    if following:
        worker.done(book, following[1])


def forked(worker: Worker, name: str, mutex: Any, guard: Any) -> None:
    """Fork a child that looks what it may do with a mutex and its guard, which the parent has; and wait for its end."""
    with undisturbed():  # a Ctrl-C would release the lock, and the child would rightly have it
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                _inherit(worker, name, mutex, guard, parent)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)


def _inherit(worker: Worker, name: str, mutex: Any, guard: Any, parent: int) -> None:
    """In a forked child: the parent holds the lock, this process does not."""
    try:
        guard.value  # noqa: B018
        worker.log.broken("a forked child does not own its parent's guard", mutex=name)
    except NotOwned:
        pass
    try:
        got = mutex.try_lock()
    except MutexDestroyed:
        return
    if got is not None:
        # So the parent has just been killed; that it is not our parent any more follows soon.
        deadline = time.monotonic() + _ORPHANED
        while os.getppid() == parent and time.monotonic() < deadline:
            time.sleep(0.001)
        if os.getppid() == parent:
            worker.log.broken("a forked child cannot have the lock that its parent holds", mutex=name)
        del got
