"""One worker of the storm: it keeps books until it is killed, and tells what it finds wrong."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from wdkmutex_shm import CriticalSection, Grt, KMutex, private
from wdkmutex_shm.errors import (
    DaemonUnavailable,
    GrtAlreadyExists,
    GrtIsEmpty,
    KeyExists,
    KeyNotFound,
    MutexDestroyed,
    NotOwned,
    WdkMutexError,
)

from .board import Board, Log
from .book import Book, footprint
from .circles import cross
from .ledger import DictLedger, Page, TornError
from .tasks import run_tasks

__all__ = ["INTERRUPTED", "run_worker"]

INTERRUPTED = 3
"""Exit status of a worker that was interrupted where it could not go on."""
_LONGEST_WAIT = 2.0
_TIMEOUT = 10.0
_TURNOVER = 0.01


class _OopsError(Exception):
    """What a worker raises while it holds a lock."""


def run_worker(
    number: int, workers: int, board: Board, folder: str, books: list[Book], instance: str, seed: int
) -> NoReturn:
    """Be a worker, in a forked child, to the end of the process."""
    code = 1
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever a shell in the background has made of it
    try:
        log = Log(folder, number)
        try:
            worker = Worker(number, workers, board, log, books, random.Random(seed))
            while True:
                try:
                    worker.live(instance)
                    break
                except KeyboardInterrupt:
                    board.count(number, "interrupts")
            worker.end()
            code = 0
        except KeyboardInterrupt:
            code = INTERRUPTED
        except BaseException as error:
            traceback.print_exc()
            log.broken("a worker goes on", error=error)
    finally:
        os._exit(code)


class Worker:
    def __init__(
        self, number: int, workers: int, board: Board, log: Log, books: list[Book], chance: random.Random
    ) -> None:
        self.number = number
        self._workers = workers
        self.board = board
        self.log = log
        self.books = books
        self.chance = chance
        self._footprint = footprint()
        self._parent = os.getppid()
        self._handles: dict[int, Any] = {}
        self._logged: dict[tuple[int, int], int] = {}
        self._certain: set[tuple[int, int]] = set()
        self._seen: dict[tuple[int, int], tuple[int, ...]] = {}
        self._lost = False  # an error in a finalizer, of which nobody is told
        sys.unraisablehook = self._note_lost
        self._deeds: list[tuple[float, Callable[[Book, Any], None]]] = [
            (10, self._commit),
            (3, self._commit_nested),
            (2, self._commit_twice),
            (2, self._commit_by_dropping),
            (2, self._try),
            (3, self._fail),
            (2, partial(cross, self)),
            (1, self._fork),
            (5, self._peek),
            (0.5, self._pickle),
            (0.5, self._commit_in_tasks),
        ]

    def _note_lost(self, what: object) -> None:
        self._lost = True

    # --- a life: from the start, or from a Ctrl-C, to the next

    def live(self, instance: str) -> None:
        """Work until told to stop. What was done and what was only begun is found out anew."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        self._handles.clear()
        self._certain.clear()
        self._logged = self.log.commits()
        with contextlib.suppress(GrtAlreadyExists):
            Grt.init(instance, timeout=_TIMEOUT)
        weights = [weight for weight, _ in self._deeds]
        while not self.board.stopping and os.getppid() == self._parent:
            book = self.chance.choice(self.books)
            (_, deed) = self.chance.choices(self._deeds, weights)[0]
            try:
                if book.renewed and self.chance.random() < _TURNOVER:
                    self._register_anew(book)
                elif book.kind == "section":
                    self._section(book)
                elif self.chance.random() < 0.02:
                    self._own()
                else:
                    deed(book, self.handle(book))
            except MutexDestroyed:
                self._handles.pop(book.number, None)
            except (DaemonUnavailable, KeyNotFound, GrtIsEmpty, KeyExists):
                pass  # the daemon was just killed, or somebody else registers
            except WdkMutexError as error:
                self.log.broken("every error has a reason in the storm", error=error, mutex=book.name)
                self._handles.pop(book.number, None)
            self.board.count(self.number, "operations")

    def end(self) -> None:
        """Give everything back, and see that nothing is left."""
        self._handles.clear()
        Grt.detach()
        private.close()
        gc.collect()
        found = footprint(self._footprint)
        if found[0] != self._footprint[0] or found[1] > self._footprint[1]:
            self.log.broken("no descriptor and no mapping is left", before=self._footprint, after=found)
        self.board.count(self.number, "lives ended in order")

    # --- names

    def handle(self, book: Book) -> Any:
        if book.handle is not None:
            return book.handle
        handle = self._handles.get(book.number)
        if handle is None:
            get: Callable[[str], Any] = Grt.get_critical_section
            if book.kind != "section":
                get = Grt.get_fast_mutex if book.kind == "fast" else Grt.get_kmutex
            try:
                handle = get(book.name)
            except (KeyNotFound, GrtIsEmpty):
                if not book.renewed:
                    self.log.broken("a registered name stays", mutex=book.name)
                self._register(book, checked=True)
                handle = get(book.name)
            self._handles[book.number] = handle
        return handle

    def _register(self, book: Book, *, checked: bool) -> None:
        assert book.ledger is not None
        value = book.ledger.first(book.name, self.chance.getrandbits(60), self._workers)
        register: Callable[[str, Any], object]
        if book.kind == "fast":
            register = Grt.register_fast_mutex_checked if checked else Grt.register_fast_mutex
        else:
            register = Grt.register_kmutex_checked if checked else Grt.register_kmutex
        register(book.name, value)
        self.board.count(self.number, "registrations")

    def _register_anew(self, book: Book) -> None:
        if self.chance.random() < 0.5:
            self._register(book, checked=False)
        else:
            Grt.unregister(book.name)

    # --- what is read and written

    def lock(self, mutex: Any) -> Any:
        begun, excused = time.monotonic_ns(), self.board.excused()
        guard = mutex.lock(_TIMEOUT)
        self._waited(mutex, begun, excused)
        if guard.abandoned and not guard.is_inner:
            self.board.count(self.number, "abandoned")
        return guard

    def _waited(self, mutex: Any, begun: int, excused: int) -> None:
        excused = self.board.excused() - excused
        waited = time.monotonic_ns() - begun - excused
        self.board.note_wait(self.number, max(0, waited))
        if waited > _LONGEST_WAIT * 1e9:
            self.log.broken("nobody waits over 2 s", mutex=mutex.name, seconds=waited / 1e9, excused=excused / 1e9)

    def verify(self, book: Book, value: Any) -> Page | None:
        """Read a T and compare it with what is known. None if it is not whole."""
        assert book.ledger is not None
        modulus = book.ledger.modulus
        try:
            page = book.ledger.read(value, book.name)
        except TornError as error:
            self.log.broken("T is whole, and of the mutex that it was read from", mutex=book.name, found=error)
            return None
        key = (book.number, page.epoch)
        seen = self._seen.get(key, page.commits)
        if any((now - then) % modulus > modulus // 2 for now, then in zip(page.commits, seen, strict=True)):
            self.log.broken("no commit is undone", mutex=book.name, seen=seen, found=page.commits)
        self._seen[key] = page.commits
        logged = self._logged.get(key, 0)
        ahead = (page.commits[self.number] - logged) % modulus
        if ahead > (0 if key in self._certain else 1):
            self.log.broken("T has every commit that returned, and none that did not", mutex=book.name, logged=logged,
                             found=page.commits[self.number], sure=key in self._certain)  # fmt: skip
        if ahead:
            self._done(book, page)
        self._certain.add(key)
        return page

    def _next(self, book: Book, value: Any) -> tuple[Any, Page] | None:
        """The T of this worker's next commit, and what it says."""
        page = self.verify(book, value)
        if page is None or book.ledger is None:
            return None
        commits = list(page.commits)
        commits[self.number] = (commits[self.number] + 1) % book.ledger.modulus
        page = Page(page.epoch, tuple(commits))
        return book.ledger.write(value, book.name, page, self.chance), page

    def _done(self, book: Book, page: Page) -> None:
        number = page.commits[self.number]
        self.log.commit(book.number, page.epoch, number)
        self._logged[book.number, page.epoch] = number
        self.board.count(self.number, "commits")

    # --- deeds

    def _commit(self, book: Book, mutex: Any) -> None:
        with self.lock(mutex) as guard:
            following = self._next(book, guard.value)
            if following:
                guard.value = following[0]
        if following:
            self._done(book, following[1])

    def _commit_nested(self, book: Book, mutex: Any) -> None:
        if book.kind != "k":
            return
        with self.lock(mutex) as outer:
            following = self._next(book, outer.value)
            with self.lock(mutex) as inner:
                if following:
                    inner.value = following[0]
            try:
                with self.lock(mutex) as inner:
                    assert book.ledger is not None
                    inner.value = book.ledger.spoiled(inner.value)
                    raise _OopsError
            except _OopsError:
                pass
        if following:
            self._done(book, following[1])

    def _commit_twice(self, book: Book, mutex: Any) -> None:
        with self.lock(mutex) as guard:
            following = self._next(book, guard.value)
            if not following:
                return
            guard.value = following[0]
            guard.commit()
            self._done(book, following[1])
            following = self._next(book, guard.value)
            if following:
                guard.value = following[0]
        if following:
            self._done(book, following[1])

    def _commit_by_dropping(self, book: Book, mutex: Any) -> None:
        if isinstance(book.ledger, DictLedger):
            return  # an exception amid a change in place would commit the half of it: that is what `with` is for
        guard = self.lock(mutex)
        following = self._next(book, guard.value)
        self._lost = False
        if following:
            guard.value = following[0]
        del guard
        if following:
            if self._lost:
                raise KeyboardInterrupt  # it came while the guard went, and was only reported; begin again
            self._done(book, following[1])

    def _commit_in_tasks(self, book: Book, mutex: Any) -> None:
        run_tasks(mutex, _TIMEOUT, partial(self._next, book), partial(self._done, book))

    def _try(self, book: Book, mutex: Any) -> None:
        guard = mutex.try_lock()
        if guard is not None:
            with guard:
                self.board.count(self.number, "abandoned", bool(guard.abandoned))
                self.verify(book, guard.value)

    def _fail(self, book: Book, mutex: Any) -> None:
        assert book.ledger is not None
        try:
            with self.lock(mutex) as guard:
                guard.value = book.ledger.spoiled(guard.value)
                raise _OopsError
        except _OopsError:
            self.board.count(self.number, "rollbacks")

    def _peek(self, book: Book, mutex: Any) -> None:
        self.verify(book, mutex.peek())
        self.board.count(self.number, "peeks")

    def _pickle(self, book: Book, mutex: Any) -> None:
        if book.handle is None:
            self._handles[book.number] = pickle.loads(pickle.dumps(mutex))

    def _own(self) -> None:
        """A mutex of this process alone, which its death leaves in shared memory."""
        mutex = KMutex(self.chance.randbytes(self.chance.randrange(200)))
        with mutex.lock() as guard:
            guard.value = value = guard.value * 2
        if mutex.peek() != value:
            self.log.broken("a commit is seen", mutex="anonymous")

    def _section(self, book: Book) -> None:
        section: CriticalSection = self.handle(book)
        # A Ctrl-C between the two numbers would leave them unequal, as any program's data.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            begun, excused = time.monotonic_ns(), self.board.excused()
            section.enter(_TIMEOUT)
            self._waited(section, begun, excused)
            left, right = self.board.pair
            if left != right and not section.abandoned:
                self.log.broken("a section keeps others out, and tells when its holder died", pair=(left, right))
            self.board.count(self.number, "abandoned", bool(section.abandoned))
            number = max(left, right) + 1
            self.board.set_left(number)
            if self.chance.random() < 0.5:
                time.sleep(0.0005)
            self.board.set_right(number)
            section.leave()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def _fork(self, book: Book, mutex: Any) -> None:
        with self.lock(mutex) as guard:
            following = self._next(book, guard.value)
            # No Ctrl-C here: it would release the lock, and the child would rightly have it.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                parent = os.getpid()
                pid = os.fork()
                if pid == 0:
                    try:
                        self._inherit(book, mutex, guard, parent)
                    finally:
                        os._exit(0)
                os.waitpid(pid, 0)
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            if following:
                guard.value = following[0]
        self.board.count(self.number, "forks while holding")
        if following:
            self._done(book, following[1])

    def _inherit(self, book: Book, mutex: Any, guard: Any, parent: int) -> None:
        """In a forked child: the parent holds the lock, this process does not."""
        try:
            guard.value  # noqa: B018
            self.log.broken("a forked child does not own its parent's guard", mutex=book.name)
        except NotOwned:
            pass
        try:
            own = mutex.try_lock()
        except MutexDestroyed:
            return
        if own is not None:
            # So the parent has just been killed; that it is not our parent any more follows soon.
            deadline = time.monotonic() + 5
            while os.getppid() == parent and time.monotonic() < deadline:
                time.sleep(0.001)
            if os.getppid() == parent:
                self.log.broken("a forked child cannot have the lock that its parent holds", mutex=book.name)
            del own
