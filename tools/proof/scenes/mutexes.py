"""Operations on anonymous mutexes of one process, whose T are known before and after."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from wdkmutex_shm import FastMutex, KMutex, lock_all, lock_any
from wdkmutex_shm.base.names import user_prefix
from wdkmutex_shm.memory import journal_files, shm
from wdkmutex_shm.pool import private, sweep

from ..base.children import die, fork
from ..base.harness import Proof
from ..operations.actor import Actor
from ..operations.catalogue import OPERATIONS
from .scene import PATIENCE, Scene, Seen

_LIMIT = 10.0
_numbers = itertools.count(1)


def _number(number: int, size: int) -> int:
    return (number << 8 * min(size, 4) - 8) + size


def _bytes(number: int, size: int) -> bytes:
    return (b"%07d." % number * (size // 8 + 1))[:size]


def _dict(number: int, size: int) -> dict[str, Any]:
    return {"n": number, "last": [number] * (size // 8)}


Maker = Callable[[int, int], Any]
"""Makes T number n of about so many bytes; each is different."""


class Case(NamedTuple):
    """An operation, with what it is done to.

    Attributes:
        name: for people.
        operation: of the catalogue.
        kinds: of the mutexes.
        values: for each of them, what makes its T.
        sizes: bytes of the T before the old one, of the old, and of what each commit publishes.
        orphaned: whether the lock's last holder has died amid a growth.
        within: whether the operation marks by itself what is looked at.
    """

    name: str
    operation: str
    kinds: tuple[Any, ...]
    values: tuple[Maker, ...]
    sizes: tuple[int, ...]
    orphaned: bool = False
    within: bool = False


def _one(name: str, operation: str, kind: Any, value: Maker, *sizes: int, **more: bool) -> Case:
    return Case(name, operation, (kind,), (value,), sizes, **more)


CASES = (
    _one("fast-commit", "commit", FastMutex, _number, 2, 4, 3),
    _one("k-commit", "commit", KMutex, _number, 2, 4, 3),
    _one("k-nested", "commit nested", KMutex, _number, 3, 2, 4),
    _one("commit-while-held", "commit while held", FastMutex, _number, 2, 4, 3),
    _one("commit-twice", "commit twice", KMutex, _bytes, 40, 64, 50, 300),
    _one("commit-by-dropping", "commit by dropping the guard", FastMutex, _number, 2, 4, 3),
    _one("drop-safe", "commit by drop_safe", KMutex, _number, 2, 4, 3, within=True),
    _one("bytes-commit", "commit", FastMutex, _bytes, 40, 64, 50),
    _one("dict-in-place", "commit in place", KMutex, _dict, 16, 40, 64),
    _one("exception", "exception", KMutex, _bytes, 40, 64),
    _one("fetch-add", "fetch_add", FastMutex, _number, 2, 4, 3),
    _one("replace", "replace", KMutex, _bytes, 60, 20, 40),
    _one("replace-large", "replace", KMutex, _bytes, 60, 20, 300),
    _one("to-owned", "to_owned", FastMutex, _number, 2, 4),
    _one("to-owned-large", "to_owned", KMutex, _bytes, 300, 300),
    _one("take-over", "commit", FastMutex, _bytes, 20, 30, 60, orphaned=True),
    _one("task-release", "commit in a task", KMutex, _number, 2, 4, 3, within=True),
    _one("task-release-large", "commit in a task", FastMutex, _bytes, 20, 30, 300, within=True),
    _one("grow", "commit", FastMutex, _bytes, 20, 30, 300),
    _one("grow-again", "commit", KMutex, _bytes, 300, 300, 5000),
    _one("shrink", "commit", FastMutex, _bytes, 20000, 20000, 20),
    _one("lock-any", "lock_any", FastMutex, _number, 2, 4, 3),
    _one("lock-when", "lock_when", FastMutex, _number, 2, 4, 3),
    _one("wait-in-guard", "guard.wait_for", FastMutex, _number, 2, 4, 3, 2),
    Case("lock-all", "lock_all", (FastMutex, KMutex, FastMutex), (_number,) * 3, (2, 4, 3)),
    Case("lock-all-ints", "lock_all", (FastMutex, KMutex), (_number,) * 2, (2, 4, 3)),
    Case("lock-all-large", "lock_all", (KMutex, FastMutex, KMutex), (_bytes, _number, _bytes), (3, 7, 900)),
    Case("lock-all-while-held", "lock_all, committed while held", (FastMutex, KMutex), (_bytes,) * 2, (20, 30, 300)),
)


class MutexScene(Scene, Actor):
    """A case; it is the actor of its operation, and a place is the number of a mutex."""

    timeout = _LIMIT
    warm_up = 20

    def __init__(self, proof: Proof, case: Case) -> None:
        super().__init__(proof)
        self.name, self.within = case.name, case.within
        self.chance: random.Random = proof.random
        self._case = case
        self._mutexes: list[Any] = []
        self._values: list[list[Any]] = []
        self._steps: list[int] = []
        self._mark: Callable[[], object] = print
        self.warm()

    # --- a round

    def prepare(self) -> None:
        """Mutexes that hold the old T, and before it held another one; their slots are beside each other."""
        case = self._case
        self._before = private.the_pool().stats()  # with what other operations keep: the types of multiprocessing
        self._segments = self._data()
        self._values = [[value(next(_numbers), size) for size in case.sizes] for value in case.values]
        self._mutexes = [kind(values[0]) for kind, values in zip(case.kinds, self._values, strict=True)]
        self._steps = [1] * len(self._mutexes)
        for mutex, values in zip(self._mutexes, self._values, strict=True):
            mutex.replace(values[0])
            mutex.replace(values[1])
        if case.orphaned:
            _orphan(self._mutexes[0])
        self.watch(*self._mutexes)

    def do(self, mark: Callable[[], object]) -> None:
        """What the case says."""
        self._mark = mark
        OPERATIONS[self._case.operation].do(self, *range(len(self._mutexes)))

    def check(self, seen: Seen) -> None:
        """A survivor locks, finds the T that was committed, is told of the death, and commits; then nothing is left."""
        if not seen.pid:
            assert self.slots is not None
            seen = self.slots.look(seen.where, 0)._replace(done=seen.done, held=self.slots.held_by(0), ended=None)
            owners = [mutex.owner for mutex in self._mutexes if not mutex.destroyed]
            held = any(owner is not None and owner.pid == os.getpid() for owner in owners)
            self.expect(not held, "who lives on holds no lock")
        try:
            if self._mutexes[0].destroyed if seen.ended is None else seen.ended:
                consumed = self._case.operation == "to_owned" and self._mutexes[0].destroyed
                self.expect(consumed, "only to_owned ends a mutex")
                self._mutexes[0]._collect()  # as its owner does before it makes more room
            else:
                done = seen.done and self._case.operation == "to_owned"
                self.expect(not done, "a mutex that was consumed is gone")
                self._survive(seen)
        except Exception as error:
            self.expect(False, "a survivor has the lock within 1 s and can read T", error=error)
        self._mutexes.clear()
        self._nothing_left(seen.pid)

    def _allowed(self, seen: Seen) -> list[tuple[Any, ...]]:
        """What can be the T now: of one mutex what the commit word says; of several all old, or all new."""
        rounds = list(zip(*self._values, strict=True))[1:]
        if seen.done:
            return rounds[-1:]
        if seen.commits is None:
            return rounds
        if len(self._mutexes) == 1:
            return [rounds[seen.commits[0]]]
        return rounds[-1:] if any(seen.commits) else rounds

    def _survive(self, seen: Seen) -> None:
        allowed, mutexes = self._allowed(seen), self._mutexes
        first = self.chance.randrange(len(mutexes))
        if len(mutexes) == 1 and self.chance.random() < 0.2:
            self._consume(allowed)
            return
        with mutexes[first].lock(timeout=PATIENCE) as guard:
            early, told = guard.value, guard.abandoned
            self.abandoned(told, seen.held[first])
            if told and seen.held[first]:
                by = guard.abandoned_by
                self.expect(by == seen.owners[first], "the dead holder is named", told=by, owner=seen.owners[first])
            possible = [each[first] for each in allowed]
            self.expect(early in possible, "T is what was committed last", found=early, committed=possible)
            if len(mutexes) == 1:
                guard.value = early = self._fresh()[0]
                allowed = [(early,)]
        if not seen.pid:
            peeked = mutexes[first].peek()
            self.expect(peeked == early, "peek() says what the lock shows", found=peeked, value=early)
        if self.chance.random() < 0.5:
            sweep.dead_private_pools()
        with lock_all(*mutexes, timeout=PATIENCE) as guards:
            found = tuple(guard.value for guard in guards)
            self.expect(not guards[first].abandoned, "a death is told once")
            for at, guard in enumerate(guards):
                if at != first:
                    self.abandoned(guard.abandoned, seen.held[at])
            self.expect(found in allowed, "all of them are published, or none", found=found)
            self.expect(early == found[first], "T stays as it was found first", early=early, found=found)
            self.proof.counts["published"] += len(mutexes) > 1 and any(seen.commits or ())
            fresh = self._fresh()
            for guard, value in zip(guards, fresh, strict=True):
                guard.value = value
        with lock_all(*mutexes, timeout=PATIENCE) as guards:
            self.expect(not any(guard.abandoned for guard in guards), "a death is told once")
            found = tuple(guard.value for guard in guards)
            self.expect(found == fresh, "the survivor's T stands", found=found, committed=fresh)
        self._consume([fresh])

    def _fresh(self) -> tuple[Any, ...]:
        return tuple(value(next(_numbers), self._case.sizes[0]) for value in self._case.values)

    def _consume(self, allowed: list[tuple[Any, ...]]) -> None:
        """Take T out: an anonymous mutex that others may use goes no other way."""
        found = tuple(mutex.to_owned() for mutex in self._mutexes)
        self.expect(found in allowed, "T is what was committed last", found=found, committed=allowed)

    def _data(self) -> set[str]:
        return set(shm.listing(private.the_pool().prefix + ".d"))

    def _nothing_left(self, victim: int) -> None:
        pool = private.the_pool()
        left = self._data() - self._segments
        self.expect(not left, "no data segment is left", left=left)
        stats = pool.stats()
        left_over = stats.used > self._before.used or stats.quarantined > self._before.quarantined
        self.expect(not left_over, "no slot is left", stats=stats)
        if not self.proof.ok:
            pool.look()
        if victim and len(self._case.kinds) > 1:
            journal_files._next_search.clear()  # or it would be looked for later only
            sweep.dead_private_pools()
            journals = shm.listing(f"{user_prefix()}@{victim}.")
            self.expect(not journals, "no journal is left", left=journals)

    def close(self) -> None:
        """Remove the journal of this process, which it would keep to its end."""
        super().close()
        journal_files._close()

    # --- the actor

    def handle(self, at: int) -> Any:
        return self._mutexes[at]

    def lock(self, at: int) -> Any:
        return self._mutexes[at].lock(timeout=self.timeout)

    def lock_all(self, *places: int) -> Any:
        return lock_all(*self._mutexes, timeout=self.timeout)

    def lock_any(self, *places: int) -> tuple[int, Any]:
        return lock_any(*self._mutexes, timeout=self.timeout)

    def next(self, at: int, value: Any) -> Any:
        self._steps[at] += 1
        new = self._values[at][self._steps[at]]
        if isinstance(value, dict):
            value["n"] = new["n"]
            value["last"][:] = new["last"]
            return value
        return new

    def spoil(self, at: int, value: Any) -> Any:
        return value * 2

    def amount(self, at: int) -> int:
        return int(self._values[at][2] - self._values[at][1])

    def news(self, at: int) -> Callable[[Any], bool]:
        return lambda value: True

    def mark(self) -> None:
        self._mark()


def _orphan(mutex: Any) -> None:
    """Let a child die that holds the lock and has just made a data segment."""

    def grow() -> None:
        real = shm.create

        def create_and_die(name: str, size: int) -> Any:
            real(name, size)
            die()

        shm.create = create_and_die
        mutex.replace(b"x" * 300)

    os.waitpid(fork(grow), 0)
