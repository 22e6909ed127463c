"""Operations on a mutex: locked, committed, grown, shrunk, consumed, taken over from the dead."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

from wdkmutex_shm import CriticalSection, FastMutex, KMutex
from wdkmutex_shm.core._segment import HEADER_BYTES, SLOT_BYTES
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool import private

from ..base.harness import Proof
from ..base.stepping import LONGEST, Region, Stepper, mark, traced_child
from . import Scene

__all__ = ["OPERATIONS", "MutexScene", "Operation", "SectionScene"]

_OWNER, _GENERATION, _COMMIT = 48, 64, 72
"""Where things are in a slot, see slot.h; the lock's word comes first."""
_TID_MASK, _OWNER_DIED = 0x3FFFFFFF, 0x40000000
_PATIENCE = 1.0
"""Seconds within which a survivor must have the lock."""
_WARM_UP = 50

_numbers = itertools.count(1)


class Operation(NamedTuple):
    """What is done to a mutex.

    Attributes:
        name: of the operation.
        kind: of the mutex.
        value: makes T number n of about so many bytes; each is different.
        sizes: bytes of the T before the old one, of the old, and of the new one.
        act: does it, given the mutex, the old and the new T; if it is ``within``, also what marks beginning and end.
        consumes: whether the mutex is gone afterwards.
        orphaned: whether the lock's last holder has died in the middle of a growth when the victim comes.
        within: whether the operation that is looked at is only a part of what ``act`` does.
    """

    name: str
    kind: Any
    value: Callable[[int, int], Any]
    sizes: tuple[int, int, int]
    act: Callable[..., object]
    consumes: bool = False
    orphaned: bool = False
    within: bool = False

    def do(self, mutex: Any, old: Any, new: Any, mark: Callable[[], object]) -> None:
        """Act, and call ``mark`` where the operation begins and ends, unless that is all of it."""
        self.act(mutex, old, new, *((mark,) if self.within else ()))


def _number(number: int, size: int) -> int:
    return (number << 8 * max(size, 1) - 8) + size


def _bytes(number: int, size: int) -> bytes:
    return (b"%07d." % number * (size // 8 + 1))[:size]


def _dict(number: int, size: int) -> dict[str, Any]:
    return {"n": number, "last": [number] * (size // 8)}


def _add(mutex: Any, old: Any, new: Any) -> None:
    with mutex.lock() as guard:
        guard.value += new - old


def _nested(mutex: Any, old: Any, new: Any) -> None:
    with mutex.lock() as outer:
        outer.value += 1
        with mutex.lock() as inner:
            inner.value += new - old - 1


def _set(mutex: Any, old: Any, new: Any) -> None:
    with mutex.lock() as guard:
        guard.value = new


def _in_place(mutex: Any, old: Any, new: Any) -> None:
    with mutex.lock() as guard:
        guard.value["n"] = new["n"]
        guard.value["last"][:] = new["last"]


def _fetch_add(mutex: Any, old: Any, new: Any) -> None:
    mutex.fetch_add(new - old)


def _replace(mutex: Any, old: Any, new: Any) -> None:
    mutex.replace(new)


def _in_task(mutex: Any, old: Any, new: Any, mark: Callable[[], object]) -> None:
    """The release of a guard that a task has, and with it the commit."""

    async def main() -> None:
        guard = await mutex.lock_async()
        guard.value = new
        mark()
        guard.drop_safe()
        mark()

    asyncio.run(main())


def _to_owned(mutex: Any, old: Any, new: Any) -> None:
    mutex.to_owned()


OPERATIONS = (
    Operation("fast-commit", FastMutex, _number, (2, 4, 3), _add),
    Operation("k-commit", KMutex, _number, (2, 4, 3), _add),
    Operation("k-nested", KMutex, _number, (3, 2, 4), _nested),
    Operation("bytes-commit", FastMutex, _bytes, (40, 64, 50), _set),
    Operation("dict-in-place", KMutex, _dict, (16, 40, 64), _in_place),
    Operation("fetch-add", FastMutex, _number, (2, 4, 3), _fetch_add),
    Operation("replace", KMutex, _bytes, (60, 20, 40), _replace),
    Operation("to-owned", FastMutex, _number, (2, 4, 0), _to_owned, consumes=True),
    Operation("to-owned-large", KMutex, _bytes, (300, 300, 0), _to_owned, consumes=True),
    Operation("take-over", FastMutex, _bytes, (20, 30, 60), _set, orphaned=True),
    Operation("task-release", KMutex, _number, (2, 4, 3), _in_task, within=True),
    Operation("task-release-large", FastMutex, _bytes, (20, 30, 300), _in_task, within=True),
    Operation("grow", FastMutex, _bytes, (20, 30, 300), _set),
    Operation("grow-again", KMutex, _bytes, (300, 300, 5000), _set),
    Operation("shrink", FastMutex, _bytes, (20000, 20000, 20), _set),
)


class MutexScene(Scene):
    """An operation on an anonymous mutex of this process, by a forked child."""

    def __init__(self, proof: Proof, stepper: Stepper, operation: Operation) -> None:
        super().__init__(proof, stepper)
        self.name = operation.name
        self._operation = operation
        self._mutex: Any = None
        self._old: Any = None
        self._new: Any = None
        self._generation = self._commit = 0
        self._dies_holding = self._ended = False
        self._owner = 0
        for _ in range(_WARM_UP):  # what is made at first use is no part of the operation
            mutex = self._make()
            operation.do(mutex, self._old, self._new, lambda: None)
            if not mutex.destroyed:
                mutex.to_owned()

    def _make(self) -> Any:
        before, self._old, self._new = (self._operation.value(next(_numbers), size) for size in self._operation.sizes)
        mutex = self._operation.kind(before)
        mutex.replace(before)
        mutex.replace(self._old)
        return mutex

    def begin(self) -> int:
        """A mutex that holds the old T, and before it held another one."""
        self.forget_region()
        self._before = private.the_pool().stats()  # with what other operations keep: the types of multiprocessing
        mutex = self._mutex = self._make()
        old, new, operation = self._old, self._new, self._operation
        if operation.orphaned:
            _orphan(mutex)
        self.region = Region(mutex.segment, HEADER_BYTES + mutex.slot_index * SLOT_BYTES, SLOT_BYTES)
        self._generation, self._commit = self.region.word(_GENERATION), self.region.word(_COMMIT)
        pid = traced_child(lambda: operation.do(mutex, old, new, mark), LONGEST, marks=not operation.within)
        assert self.stepper.begin(pid)
        return pid

    def look(self, pid: int) -> None:
        """Whether the victim holds the lock, has committed, has ended the mutex."""
        assert self.region is not None
        word = self.region.word(0, 4)
        self._owner = self.region.word(_OWNER) >> 32 & 0x3FFFFF
        self._dies_holding = word & _TID_MASK == pid or bool(word & _OWNER_DIED)
        if self.region.word(_COMMIT) != self._commit:
            self._old = self._new
        self._ended = self.region.word(_GENERATION) != self._generation

    def check(self, where: str) -> None:
        """A survivor locks, finds the T that was committed, is told of the death, and commits; then nothing is left."""
        mutex = self._mutex
        try:
            if self._ended:
                self.expect(self._operation.consumes and mutex.destroyed, "only to_owned ends a mutex", where)
                mutex._collect()  # as its owner does before it makes more room
            elif self.proof.random.random() < 0.8:
                self._lock(where)
                self._consume(where)
            else:
                self._consume(where)
        except Exception as error:
            self.expect(False, "a survivor has the lock within 1 s and can read T", where, error=error)
        self._mutex = None
        pool = private.the_pool()
        left = shm.listing(pool.prefix + ".d")
        self.expect(not left, "no data segment is left", where, left=left)
        stats = pool.stats()
        left_over = stats.used > self._before.used or stats.quarantined > self._before.quarantined
        self.expect(not left_over, "no slot is left", where, stats=stats)
        if not self.proof.ok:
            pool.look()

    def _lock(self, where: str) -> None:
        with self._mutex.lock(timeout=_PATIENCE) as guard:
            self.expect(
                guard.abandoned == self._dies_holding,
                "abandoned is told exactly when the holder died",
                where,
                told=guard.abandoned,
            )
            if self._dies_holding:
                self.proof.counts["abandoned"] += 1
                self.expect(
                    guard.abandoned_by == (self._owner or None),
                    "the dead holder is named",
                    where,
                    told=guard.abandoned_by,
                    owner=self._owner,
                )
            found = guard.value
            self.expect(found == self._old, "T is what was committed last", where, found=found, committed=self._old)
            guard.value = self._old = self._operation.value(next(_numbers), self._operation.sizes[0])
        with self._mutex.lock(timeout=_PATIENCE) as guard:
            self.expect(not guard.abandoned, "a death is told once", where)
            found = guard.value
            self.expect(found == self._old, "the survivor's T stands", where, found=found, committed=self._old)

    def _consume(self, where: str) -> None:
        """Take T out: an anonymous mutex that others may use goes no other way."""
        found = self._mutex.to_owned()
        self.expect(found == self._old, "T is what was committed last", where, found=found, committed=self._old)


def _orphan(mutex: Any) -> None:
    """Let a child die that holds the lock and has just made a data segment."""
    pid = os.fork()
    if pid == 0:
        real = shm.create

        def create_and_die(name: str, size: int) -> Any:
            real(name, size)
            os.kill(os.getpid(), signal.SIGKILL)

        shm.create = create_and_die
        mutex.replace(b"x" * 300)
    os.waitpid(pid, 0)


class SectionScene(Scene):
    """A critical section of this process, entered and left by a forked child."""

    name = "section"

    def __init__(self, proof: Proof, stepper: Stepper) -> None:
        super().__init__(proof, stepper)
        self._section = CriticalSection()
        self._dies_holding = False
        for _ in range(_WARM_UP):
            self._act()
        self.region = Region(self._section.segment, HEADER_BYTES + self._section.slot_index * SLOT_BYTES, SLOT_BYTES)

    def _act(self) -> None:
        with self._section, self._section:
            pass

    def begin(self) -> int:
        """The section is free."""
        pid = traced_child(self._act, LONGEST)
        assert self.stepper.begin(pid)
        return pid

    def look(self, pid: int) -> None:
        """Whether the victim is in the section."""
        assert self.region is not None
        self._dies_holding = self.region.word(0, 4) & _TID_MASK == pid

    def check(self, where: str) -> None:
        """A survivor enters and is told of the death."""
        section = self._section
        try:
            section.enter(_PATIENCE)
        except Exception as error:
            self.expect(False, "a survivor enters within 1 s", where, error=error)
            return
        self.proof.counts["abandoned"] += self._dies_holding
        self.expect(
            section.abandoned == self._dies_holding,
            "abandoned is told exactly when the holder died",
            where,
            told=section.abandoned,
        )
        section.leave()

    def close(self) -> None:
        """End the section: this process forked, so the pool does not take it back by itself."""
        super().close()
        self._section._vacate()
        self._section._collect()
