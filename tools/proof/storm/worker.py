"""One worker of the storm: it keeps books until it is killed, and tells what it finds wrong."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from wdkmutex_shm import Grt, lock_all
from wdkmutex_shm.errors import (
    DaemonUnavailable,
    DeadlockError,
    GrtAlreadyExists,
    GrtIsEmpty,
    KeyExists,
    KeyNotFound,
    MutexDestroyed,
    WdkMutexError,
)
from wdkmutex_shm.pool import private

from .board import Log
from .book import Book, footprint, is_running
from .ledger import Page, TornError
from .setup import World
from .table import choose

__all__ = ["INTERRUPTED", "Worker", "run_worker"]

INTERRUPTED = 3
"""Exit status of a worker that was interrupted where it could not go on."""
_LONGEST_WAIT = 2.0
_NOTICED = 0.2
_TIMEOUT = 10.0
_ATTEMPTS = 3  # at reaching the daemon: on a busy machine it takes long to start


def run_worker(world: World, number: int, seed: int) -> NoReturn:
    """Be a worker, in a forked child, to the end of the process."""
    code = 1
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever a shell in the background has made of it
    try:
        log = Log(world.folder, number)
        try:
            worker = Worker(world, number, log, random.Random(seed))
            while True:
                try:
                    worker.live()
                    break
                except KeyboardInterrupt:
                    world.board.count(number, "interrupts")
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
    """What a worker knows.

    Args:
        world: what it shares with the others.
        number: of the worker; the next one with that number carries its books on.
        log: its own files.
        chance: every choice that it makes.

    Attributes:
        lost: whether an error in a finalizer was only reported since this was last set to False.
    """

    def __init__(self, world: World, number: int, log: Log, chance: random.Random) -> None:
        self.world = world
        self.board = world.board
        self.number = number
        self.log = log
        self.chance = chance
        self.lost = False
        self.parent = os.getppid()
        self._footprint = footprint()
        self._handles: dict[int, Any] = {}
        self._logged: dict[tuple[int, int], int] = {}
        self._certain: set[tuple[int, int]] = set()
        self._seen: dict[tuple[int, int], tuple[int, ...]] = {}
        sys.unraisablehook = self._note_lost

    def _note_lost(self, what: object) -> None:
        self.lost = True

    # --- a life: from the start, or from a Ctrl-C, to the next

    def live(self) -> None:
        """Work until told to stop. What was done and what was only begun is found out anew."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        self._handles.clear()
        self._certain.clear()
        self._logged = self.log.commits()
        self._join_grt()
        while not self.board.stopping and os.getppid() == self.parent:
            book, name, act = choose(self)
            try:
                if act() is not False:
                    self.count(name)
            except MutexDestroyed:
                self.forget(book)
            except (DaemonUnavailable, KeyNotFound, GrtIsEmpty, KeyExists):
                pass  # the daemon was just killed, or somebody else registers
            except DeadlockError as error:
                # Who takes locks in the one order meets others who do not, see deadlocks.py.
                self.note_circle(error)
            except WdkMutexError as error:
                self.log.broken("every error has a reason in the storm", error=error, mutex=book.name, deed=name)
                self.forget(book)
            self.count("operations")

    def _join_grt(self) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                with contextlib.suppress(GrtAlreadyExists):
                    Grt.init(self.world.instance, timeout=_TIMEOUT)
                return
            except DaemonUnavailable:
                if attempt + 1 == _ATTEMPTS:
                    raise

    def end(self) -> None:
        """Give everything back, and see that nothing is left."""
        self._handles.clear()
        Grt.detach()
        closed = self.world.types.leave()
        private.close()
        gc.collect()
        found = footprint(self._footprint)
        if found[0] + closed != self._footprint[0] or found[1] > self._footprint[1]:
            self.log.broken("no descriptor and no mapping is left", before=self._footprint, after=found)
        self.count("lives ended in order")

    # --- names

    def handle(self, book: Book) -> Any:
        """The mutex of a book; registered, if nobody has."""
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
                self.register(book, checked=True)
                handle = get(book.name)
            self._handles[book.number] = handle
        return handle

    def use(self, book: Book, handle: Any) -> None:
        """From now on use this handle for a book."""
        self._handles[book.number] = handle

    def forget(self, *books: Book) -> None:
        """Look these up again."""
        for book in books:
            self._handles.pop(book.number, None)

    def register(self, book: Book, *, checked: bool) -> None:
        """Register a book, as one that begins."""
        assert book.ledger is not None
        value = book.ledger.first(book.name, self.chance.getrandbits(60), self.world.workers)
        register: Callable[[str, Any], object]
        if book.kind == "fast":
            register = Grt.register_fast_mutex_checked if checked else Grt.register_fast_mutex
        else:
            register = Grt.register_kmutex_checked if checked else Grt.register_kmutex
        register(book.name, value)
        self.count("registrations")

    # --- locks

    def lock(self, mutex: Any) -> Any:
        """Lock a mutex, and note how long that took."""
        begun = self.now()
        guard = mutex.lock(_TIMEOUT)
        self.waited(mutex.name, begun)
        if not guard.is_inner:
            self.note_abandoned(guard)
        return guard

    def lock_all(self, *mutexes: Any) -> Any:
        """Lock several mutexes, and note how long that took."""
        begun = self.now()
        guards = lock_all(*mutexes, timeout=_TIMEOUT)
        self.waited("several", begun)
        for guard in guards:
            self.note_abandoned(guard, "abandoned, one of several")
        return guards

    def now(self) -> tuple[int, int]:
        """When something begins that must not take long, for :meth:`waited`."""
        return time.monotonic_ns(), self._excused()

    def _excused(self) -> int:
        """Nanoseconds so far in which somebody was stopped, or this thread could have run and had no processor."""
        try:
            with open("/proc/thread-self/schedstat") as file:
                delayed = int(file.read().split()[1])
        except FileNotFoundError:  # the kernel keeps no such accounts
            delayed = 0
        return self.board.excused() + delayed

    def waited(self, name: str, begun: tuple[int, int], what: str = "longest wait, microseconds") -> None:
        """Say how long it took, not counting the time in which nobody can be blamed for it."""
        took = time.monotonic_ns() - begun[0]
        excused = self._excused() - begun[1]
        if took - excused > _LONGEST_WAIT * 1e9:
            time.sleep(_NOTICED)  # if the whole machine stood still, the storm notices that now, as this worker did
            excused = self._excused() - begun[1]
        waited = took - excused
        self.board.note_longest(self.number, what, max(0, waited) // 1000)
        if waited > _LONGEST_WAIT * 1e9:
            self.log.broken("nobody waits over 2 s", mutex=name, seconds=waited / 1e9, excused=excused / 1e9, what=what)

    def note_abandoned(self, hold: Any, what: str = "abandoned") -> None:
        """Count it if the last holder has died: then it is dead indeed."""
        if not hold.abandoned:
            return
        self.count(what)
        deadline = time.monotonic() + _LONGEST_WAIT
        while hold.abandoned_by is not None and is_running(hold.abandoned_by):
            if time.monotonic() > deadline:
                self.log.broken("who is named as dead is dead", pid=hold.abandoned_by)
                return
            time.sleep(0.001)

    def note_circle(self, error: DeadlockError) -> None:
        """A wait of this worker closed a circle: it must be one of several threads, this one first."""
        chain = error.chain
        self.count("circles named")
        self.board.note_longest(self.number, "longest circle", len(chain))
        if len(chain) < 2 or chain[0].pid != os.getpid() or len({link.tid for link in chain}) != len(chain):
            self.log.broken("a circle is one of several threads, this one first", chain=str(chain))

    def count(self, what: str, number: int = 1) -> None:
        """Count something."""
        self.board.count(self.number, what, number)

    # --- books

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
            self.done(book, page)
        self._certain.add(key)
        return page

    def next(self, book: Book, value: Any) -> tuple[Any, Page] | None:
        """The T of this worker's next commit, and what it says."""
        page = self.verify(book, value)
        if page is None or book.ledger is None:
            return None
        commits = list(page.commits)
        commits[self.number] = (commits[self.number] + 1) % book.ledger.modulus
        page = Page(page.epoch, tuple(commits))
        return book.ledger.write(value, book.name, page, self.chance), page

    def done(self, book: Book, page: Page) -> None:
        """Log a commit that has returned."""
        number = page.commits[self.number]
        self.log.commit(book.number, page.epoch, number)
        self._logged[book.number, page.epoch] = number
        self.count("commits")
