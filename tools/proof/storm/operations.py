"""What only the storm does to mutexes: names, pickles, forks, cycles of waits, and a look at who waits."""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from collections.abc import Callable
from typing import Any

from wdkmutex_shm import Grt, KMutex, lock_all
from wdkmutex_shm.errors import DeadlockError, LockTimeout, MutexDestroyed, NotOwned

from ..base.children import fork, parent_of, undisturbed
from ..operations.multi import change, change_all
from .actor import Keeper
from .setup import Book

_WHILE = 0.002  # seconds for which a lock is held, so that others have time to want it
_ORPHANED = 5.0  # seconds within which a child learns that its parent was killed


def pickled(worker: Keeper, book: Book) -> None:
    """The handle that comes out of a pickle is as good."""
    if book.handle is None:
        worker.use(book, pickle.loads(pickle.dumps(worker.handle(book))))


def own(worker: Keeper) -> None:
    """A mutex of this process alone, which its death leaves in shared memory."""
    mutex = KMutex(worker.chance.randbytes(worker.chance.randrange(200)))
    with mutex.lock() as guard:
        guard.value = value = guard.value * 2
    if mutex.peek() != value:
        worker.broken("a commit is seen", mutex="anonymous")


def renewed(worker: Keeper) -> tuple[Book, ...]:
    """A book that is registered again now and then."""
    found = [book for book in worker.world.books if book.renewed]
    return (worker.chance.choice(found),) if found else ()


def register_again(worker: Keeper, book: Book) -> None:
    """Another epoch begins; or the name goes, and the next one who wants it registers it."""
    if worker.chance.random() < 0.5:
        worker.register(book, checked=False)
    else:
        Grt.unregister(book.name)


def cross(worker: Keeper, *books: Book) -> None:
    """Whoever closes a cycle is told, and lets go; nobody waits forever, as every wait of a worker is timed."""
    first, second = worker.chance.sample(books, 2)
    try:
        with worker.lock(first) as guard:
            worker.see(first, guard.value)
            if worker.chance.random() < 0.5:
                time.sleep(_WHILE)
            with worker.lock(second) as guard:
                worker.see(second, guard.value)
    except DeadlockError as error:
        worker.note_deadlock(error)


def look_at_waiters(worker: Keeper, book: Book) -> None:
    """While it is held, those who are said to wait for it are workers of this storm, and not this one."""
    with worker.lock(book) as guard:
        worker.see(book, guard.value)
        time.sleep(_WHILE)
        for waiter in worker.handle(book).waiters():
            worker.count("waiters told")
            if waiter.pid == os.getpid() or parent_of(waiter.pid) not in (worker.parent, None):
                worker.broken("who is said to wait is another worker", mutex=book.name, waiter=str(waiter))


def fork_holding(worker: Keeper, book: Book) -> None:
    """A child that is forked while the lock is held has neither it nor the guard."""
    mutex = worker.handle(book)
    with worker.lock(book) as guard:
        change(worker, book, guard)
        _forked(worker, guard, lambda: guard.value, mutex.try_lock, book.name)
    worker.done(book)


def fork_holding_all(worker: Keeper, *books: Book) -> None:
    """A child that is forked while all are held has none of them, and publishes nothing."""
    mutexes = [worker.handle(book) for book in books]
    guards = worker.lock_all(*books)
    with guards:
        change_all(worker, books, guards)
        _forked(worker, guards, guards.commit, lambda: lock_all(*mutexes, timeout=0), "several")
    worker.done(*books)


def _forked(worker: Keeper, guard: Any, use: Callable[[], Any], take: Callable[[], Any], name: str) -> None:
    """Fork a child that tries to use what its parent's guard gives, and to take the lock; and wait for its end."""
    parent = os.getpid()

    def inherit() -> None:
        try:
            use()
            worker.broken("a forked child does not own its parent's guard", mutex=name)
        except NotOwned:
            pass
        with contextlib.suppress(NotOwned):  # a section says so; the others are passed over
            guard.__exit__(None, None, None)
        try:
            hold = take()
        except (MutexDestroyed, LockTimeout):
            return
        if hold is not None:
            # So the parent has just been killed; that it is not our parent any more follows soon.
            deadline = time.monotonic() + _ORPHANED
            while os.getppid() == parent and time.monotonic() < deadline:
                time.sleep(0.001)
            if os.getppid() == parent:
                worker.broken("a forked child cannot have the lock that its parent holds", mutex=name)
            hold.drop_safe()

    with undisturbed():  # a Ctrl-C would release the lock, and the child would rightly have it
        os.waitpid(fork(inherit), 0)
    worker.count("forks while holding")
