"""One worker of the storm: it keeps books until it is killed, and tells what it finds wrong."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

from wdkmutex_shm import Grt, lock_all, lock_any
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

from ..base.children import is_running, undisturbed
from ..base.harness import descriptors, mappings
from ..operations.actor import Entered
from .actor import LOCK, TYPE, VALUE, Keeper, News
from .board import Log
from .ledger import DictLedger, Page, TornError
from .setup import Book, World
from .table import TABLE, WEIGHTS, Entry, done

_LONGEST_WAIT = 2.0
_NOTICED = 0.2
_VALUES = 3  # that are followed
_ATTEMPTS = 3  # at reaching the daemon: on a busy machine it takes long to start
_SETTLED = 3.0


class Worker(Keeper):
    """What a worker knows; a :class:`~proof.storm.actor.Keeper`.

    Args:
        world: what it shares with the others.
        number: of the worker; the next one with that number carries its books on.
        log: its own files.
        chance: every choice that it makes.
    """

    timeout = 10.0
    patience = 3.0  # a value was promised within two

    def __init__(self, world: World, number: int, log: Log, chance: random.Random) -> None:
        self.world = world
        self.number = number
        self.chance = chance
        self.parent = os.getppid()
        self._log = log
        self._board = world.board
        self._began = _held()
        self._handles: dict[int, Any] = {}
        self._chosen: tuple[Book, ...] = ()
        self._doing = ""
        self._logged: dict[tuple[int, int], int] = {}
        self._certain: set[tuple[int, int]] = set()
        self._seen: dict[tuple[int, int], tuple[int, ...]] = {}
        self._following: dict[int, Page] = {}

    # --- a life: from the start, or from a Ctrl-C, to the next

    def live(self) -> None:
        """Work until told to stop. What was done and what was only begun is found out again."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        self._handles.clear()
        self._certain.clear()
        self._following.clear()
        self._logged = self._log.commits()
        self._join_grt()
        while not self._board.word("stop") and os.getppid() == self.parent:
            self._chosen = ()
            self._do(self.chance.choices(TABLE, WEIGHTS)[0])
            self.count("operations")

    def _do(self, entry: Entry) -> None:
        name = self._doing = entry.operation.name
        try:
            with undisturbed() if entry.calm else contextlib.nullcontext():
                if entry.operation.run(self):
                    self.count(done(name))
        except TornError:
            pass  # that was told
        except MutexDestroyed:
            self._forget()
        except (DaemonUnavailable, KeyNotFound, GrtIsEmpty, KeyExists):
            pass  # the daemon was just killed, or somebody else registers
        except DeadlockError as error:
            # Who takes locks in the one order meets others who do not.
            self.note_deadlock(error)
        except WdkMutexError as error:
            chosen = str([book.name for book in self._chosen])
            self.broken("every error has a reason in the storm", error=error, mutex=chosen, operation=name)
            self._forget()

    def _join_grt(self) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                with contextlib.suppress(GrtAlreadyExists):
                    Grt.init(self.world.instance, timeout=self.timeout)
                return
            except DaemonUnavailable:
                if attempt + 1 == _ATTEMPTS:
                    raise

    def end(self) -> None:
        """Give everything back, and see that nothing is left."""
        self._handles.clear()
        Grt.detach()
        before = descriptors()
        self.world.queue.close()
        self.world.queue.join_thread()
        closed = before - descriptors()
        private.close()
        gc.collect()
        # The threads that sleep for tasks look up every 50 ms, or stay for a second, and release a mutex then.
        deadline = time.monotonic() + _SETTLED
        while _held()[1] > self._began[1] and time.monotonic() < deadline:
            time.sleep(0.01)
        found = _held()
        if found[0] + closed != self._began[0] or found[1] > self._began[1]:
            self.broken("no descriptor and no mapping is left", before=self._began, after=found)
        self.count("lives ended in order")

    # --- names

    def choose(self, kinds: tuple[str, ...], least: int = 1, most: int = 1) -> tuple[Book, ...]:
        books = [book for book in self.world.books if book.kind in kinds]
        if len(books) < least:
            return ()
        self._chosen = tuple(self.chance.sample(books, min(len(books), self.chance.randint(least, most))))
        for book in self._chosen:  # now: an error keeps the frames that it came through, and so a guard
            self.handle(book)
        return self._chosen

    def handle(self, at: Book) -> Any:
        """The mutex of a book; registered, if nobody has."""
        if at.handle is not None:
            return at.handle
        handle = self._handles.get(at.number)
        if handle is None:
            try:
                handle = at.registered()
            except (KeyNotFound, GrtIsEmpty):
                if not at.renewed:
                    self.broken("a registered name stays", mutex=at.name)
                self.register(at, checked=True)
                handle = at.registered()
            self.use(at, handle)
        return handle

    def use(self, book: Book, handle: Any) -> None:
        self._handles[book.number] = handle

    def _forget(self) -> None:
        """Look up again what was chosen last."""
        for book in self._chosen:
            self._handles.pop(book.number, None)

    def register(self, book: Book, *, checked: bool) -> None:
        book.register(book.first(self.world.workers, self.chance), checked=checked)
        self.count("registrations")

    # --- locks

    def lock(self, at: Book) -> Any:
        """Lock a mutex, and note how long that took."""
        mutex, begun = self.handle(at), self.now()
        hold = Entered(mutex, self.timeout) if at.kind == "section" else mutex.lock(self.timeout)
        self.waited(at.name, begun)
        return self.had(at, hold)

    def lock_all(self, *places: Book) -> Any:
        """Lock several mutexes, and note how long that took."""
        mutexes, begun = [self.handle(book) for book in places], self.now()
        guards = lock_all(*mutexes, timeout=self.timeout)
        self.waited("several", begun)
        for guard in guards:
            self._note_abandoned(guard, "abandoned, one of several")
        return guards

    def lock_any(self, *places: Book) -> tuple[int, Any]:
        mutexes, begun = [self.handle(book) for book in places], self.now()
        index, hold = lock_any(*mutexes, timeout=self.timeout)
        self.waited(places[index].name, begun)
        return index, self.had(places[index], hold)

    def had(self, at: Book, hold: Any) -> Any:
        if at.kind != "section" and not hold.is_inner:
            self._note_abandoned(hold, "abandoned")
        return hold

    def _note_abandoned(self, hold: Any, what: str) -> None:
        """Count it if the last holder has died: then it is dead indeed."""
        if not hold.abandoned:
            return
        self.count(what)
        deadline = time.monotonic() + _LONGEST_WAIT
        while hold.abandoned_by is not None and is_running(hold.abandoned_by):
            if time.monotonic() > deadline:
                self.broken("who is named as dead is dead", pid=hold.abandoned_by)
                return
            time.sleep(0.001)

    def inside(self, at: Any, hold: Any) -> None:
        """Find two numbers equal, or be told that somebody died in here; and write two others that are."""
        left, right = ("lock left", "lock right") if at == "mp.Lock" else ("left", "right")
        found = self._board.word(left), self._board.word(right)
        if found[0] != found[1] and not hold.abandoned:
            self.broken("who comes in is alone, or told that its predecessor died", pair=found, what=left)
        number = max(found) + 1
        self._board.set_word(left, number)
        if self.chance.random() < 0.5:
            time.sleep(0.0005)
        self._board.set_word(right, number)

    def note_deadlock(self, error: DeadlockError) -> None:
        """It must be a cycle of several threads, this one first."""
        chain = error.chain
        self.count("deadlocks named")
        self._board.note_longest(self.number, "longest deadlock", len(chain))
        if len(chain) < 2 or chain[0].pid != os.getpid() or len({link.tid for link in chain}) != len(chain):
            self.broken("a deadlock is a cycle of several threads, this one first", chain=str(chain))

    # --- time

    def now(self) -> tuple[int, int]:
        return time.monotonic_ns(), self._excused()

    def _excused(self) -> int:
        """Nanoseconds so far in which somebody was stopped, or this thread could have run and had no processor."""
        try:
            with open("/proc/thread-self/schedstat") as file:
                delayed = int(file.read().split()[1])
        except FileNotFoundError:  # the kernel keeps no such accounts
            delayed = 0
        return self._board.excused() + delayed

    def waited(self, name: str, begun: tuple[int, int], what: str = LOCK) -> None:
        took = time.monotonic_ns() - begun[0]
        excused = self._excused() - begun[1]
        if took - excused > _LONGEST_WAIT * 1e9:
            time.sleep(_NOTICED)  # if the whole machine stood still, the storm notices that now, as this worker did
            excused = self._excused() - begun[1]
        waited = took - excused
        self._board.note_longest(self.number, what, max(0, waited) // 1000)
        if waited > _LONGEST_WAIT * 1e9:
            self.broken("nobody waits over 2 s", mutex=name, seconds=waited / 1e9, excused=excused / 1e9, what=what)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        begun = self.now()
        try:
            yield
        finally:
            self.waited(name, begun, TYPE)

    # --- values that are waited for

    def news(self, at: Book) -> News:
        return News(at, self.now(), [])

    def arrived(self, news: News, value: Any) -> None:
        """It is newer than the wait for it, and came in time."""
        times = value if isinstance(value, list) else [value]
        begun, name = news.begun, news.relay.name
        if not news(value):
            self.broken("what is waited for holds when the wait ends", mutex=name, begun=begun[0], found=str(times))
        elif times[0] <= begun[0] or not isinstance(value, list):  # else the first one that was newer is forgotten
            self.waited(name, (min(then for then in times if then > begun[0]), begun[1]), VALUE)

    def late(self, news: News) -> None:
        """No value came: that must be because somebody is stopped who has the lock."""
        self.count("timeouts")
        self.waited(news.relay.name, news.begun, VALUE)

    def follow(self, news: News, value: Any) -> bool:
        """None is older than the one before, and the next one comes soon."""
        time_of = value[-1] if isinstance(value, list) else value
        last = news.followed[-1] if news.followed else 0
        if time_of < last:
            name = news.relay.name
            self.broken("values come in the order of their commits", mutex=name, before=last, found=time_of)
        news.followed.append(time_of)
        return len(news.followed) < _VALUES

    # --- books

    def verify(self, book: Book, value: Any) -> Page:
        """Read a T and compare it with what is known."""
        assert book.ledger is not None
        modulus = book.ledger.modulus
        try:
            page = book.ledger.read(value, book.name)
        except TornError as error:
            self.broken("T is whole, and of the mutex that it was read from", mutex=book.name, found=error)
            raise
        key = (book.number, page.epoch)
        seen = self._seen.get(key, page.commits)
        if any((now - then) % modulus > modulus // 2 for now, then in zip(page.commits, seen, strict=True)):
            self.broken("no commit is undone", mutex=book.name, seen=seen, found=page.commits)
        self._seen[key] = page.commits
        logged, found, sure = self._logged.get(key, 0), page.commits[self.number], key in self._certain
        ahead = (found - logged) % modulus
        if ahead > (not sure):
            promise = "T has every commit that returned, and none that did not"
            self.broken(promise, mutex=book.name, logged=logged, found=found, sure=sure)
        if ahead:
            self._note_commit(book, page)
        self._certain.add(key)
        return page

    def see(self, at: Book, value: Any) -> None:
        if at.ledger is not None:
            self.verify(at, value)

    def next(self, at: Book, value: Any) -> Any:
        """The T of this worker's next commit: of a relay one that has this moment in it."""
        if at.kept:
            now = time.monotonic_ns()
            return [*value, now][-at.kept :] if at.kept > 1 else now
        page = self.verify(at, value)
        assert at.ledger is not None
        commits = list(page.commits)
        commits[self.number] = (commits[self.number] + 1) % at.ledger.modulus
        page = self._following[at.number] = Page(page.epoch, tuple(commits))
        return at.ledger.write(value, at.name, page, self.chance)

    def replaces(self, at: Book) -> bool:
        return not isinstance(at.ledger, DictLedger)

    def spoil(self, at: Book, value: Any) -> Any:
        assert at.ledger is not None
        return at.ledger.spoiled(value)

    def done(self, *places: Book) -> None:
        """Log commits that have returned."""
        for book in places:
            page = self._following.pop(book.number, None)
            if page is not None:
                self._note_commit(book, page)

    def _note_commit(self, book: Book, page: Page) -> None:
        number = page.commits[self.number]
        self._log.commit(book.number, page.epoch, number)
        self._logged[book.number, page.epoch] = number
        self.count("commits")

    # --- what is told

    def took(self, putter: int, number: int) -> None:
        self._log.took(0, putter, number)

    def count(self, what: str, number: int = 1) -> None:
        self._board.count(self.number, what, number)

    def broken(self, promise: str, **facts: Any) -> None:
        self._log.broken(promise, **{"operation": self._doing, **facts})


def _held() -> tuple[int, int]:
    """Open descriptors, and mappings of segments of ours: not of the parent's own mutexes, nor of the wait board."""
    return descriptors(), mappings(f".@{os.getppid()}.", ".@waits")
