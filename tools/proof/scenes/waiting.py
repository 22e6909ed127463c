"""Somebody sleeps until a victim commits, or releases, which is killed as it does: the sleeper must not sleep on."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import select
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from wdkmutex_shm import FastMutex, KMutex, lock_all, lock_any
from wdkmutex_shm.core._segment import HEADER_BYTES, SLOT_BYTES

from ..base.harness import Proof
from ..base.stepping import LONGEST, Region, Stepper, end, mark, traced_child
from . import Scene

__all__ = ["WAITS", "WaitingScene"]

_COMMIT = 72
"""Where the commit word is in a slot, see slot.h; the lock's word comes first."""
_TID_MASK, _OWNER_DIED = 0x3FFFFFFF, 0x40000000
_PATIENCE = 1.0
"""Seconds within which the sleeper must have what it waits for."""
_SCHEDULING = 0.5  # and those that a busy machine needs to wake it
_LIMIT = 10.0
_SETTLED = 0.02
_WARM_UP = 20

Told = tuple[int, bool]


class Wait(NamedTuple):
    """Who waits for what.

    Attributes:
        name: of the operation.
        kind: of the mutex.
        held: whether the victim has the lock before it is looked at, so that only its release is.
        forms: ways to wait, one of which is chosen each time. Each is given the mutex and the T that is to come, and
            returns the T that it found and whether it was told of a death.
    """

    name: str
    kind: Any
    held: bool
    forms: tuple[Callable[[Any, int], Told], ...]


def _lock_when(mutex: Any, target: int) -> Told:
    with mutex.lock_when(lambda value: value >= target, timeout=_LIMIT) as guard:
        return guard.value, guard.abandoned


def _wait_for(mutex: Any, target: int) -> Told:
    return mutex.wait_for(lambda value: value >= target, timeout=_LIMIT), False


def _wait_in_guard(mutex: Any, target: int) -> Told:
    with mutex.lock() as guard:
        guard.wait_for(lambda value: value >= target, timeout=_LIMIT)
        return guard.value, guard.abandoned


def _changes(mutex: Any, target: int) -> Told:
    for value in mutex.changes(timeout=_LIMIT):
        if value >= target:
            return value, False
    raise TimeoutError


def _in_task(mutex: Any, target: int) -> Told:
    return asyncio.run(mutex.wait_for_async(lambda value: value >= target, timeout=_LIMIT)), False


def _lock(mutex: Any, _: int) -> Told:
    with mutex.lock(timeout=_LIMIT) as guard:
        return guard.value, guard.abandoned


def _lock_any(mutex: Any, _: int) -> Told:
    guard: Any
    with lock_any(mutex, timeout=_LIMIT)[1] as guard:
        return guard.value, guard.abandoned


def _lock_all(mutex: Any, _: int) -> Told:
    with lock_all(FastMutex(0), mutex, timeout=_LIMIT) as (_, guard):
        return guard.value, guard.abandoned


def _lock_async(mutex: Any, _: int) -> Told:
    async def main() -> Told:
        async with mutex.lock_async(timeout=_LIMIT) as guard:
            return guard.value, guard.abandoned

    return asyncio.run(main())


_VALUES = _lock_when, _wait_for, _wait_in_guard, _changes, _in_task
_RELEASES = _lock, _lock_any, _lock_all, _lock_async

WAITS = (
    Wait("commit-waited-for", FastMutex, False, _VALUES),
    Wait("k-commit-waited-for", KMutex, False, _VALUES),
    Wait("release-waited-for", FastMutex, True, _RELEASES),
    Wait("k-release-waited-for", KMutex, True, _RELEASES),
)


class WaitingScene(Scene):
    """A commit and a release by a forked child, for which another child of this process waits, and lives on."""

    def __init__(self, proof: Proof, stepper: Stepper, wait: Wait) -> None:
        super().__init__(proof, stepper)
        self.name = wait.name
        self._wait = wait
        self._mutex: Any = wait.kind(0)
        self._target = 0
        self._form = ""
        self._commit = 0
        self._committed = self._dies_holding = False
        for _ in range(_WARM_UP):  # what is made at first use is no part of the operation
            self._act(lambda: None)
        self.region = Region(self._mutex.segment, HEADER_BYTES + self._mutex.slot_index * SLOT_BYTES, SLOT_BYTES)
        self._line, theirs = multiprocessing.Pipe()
        self._sleeper = os.fork()
        if self._sleeper == 0:
            _sleep_on_demand(theirs, self._mutex, wait.forms, proof.random.getrandbits(32))
        theirs.close()

    def _act(self, mark: Callable[[], object]) -> None:
        if self._wait.held:
            guard = self._mutex.lock()
            guard.value = self._target
            mark()
            guard.drop_safe()
        else:
            mark()
            with self._mutex.lock() as guard:
                guard.value = self._target
        mark()

    def begin(self) -> int:
        """The sleeper sleeps before the victim commits, or once it has the lock."""
        assert self.region is not None
        self._target += 1
        self._commit = self.region.word(_COMMIT)
        if not self._wait.held:
            self._order()
        pid = traced_child(lambda: self._act(mark), LONGEST, marks=False)
        assert self.stepper.begin(pid)
        if self._wait.held:
            self._order()
        return pid

    def _order(self) -> None:
        """Let the sleeper wait, and return when it sleeps."""
        self._line.send(self._target)
        assert self._line.poll(_LIMIT)
        self._form = self._line.recv()
        deadline = time.monotonic() + _LIMIT
        while not _sleeps(self._sleeper) and time.monotonic() < deadline:
            time.sleep(0)
        if self.proof.random.random() < 0.5:
            # By then it has looked again, and asked to be served next.
            time.sleep(self.proof.random.random() * _SETTLED)

    def look(self, pid: int) -> None:
        """Whether the victim holds the lock, and has committed."""
        assert self.region is not None
        word = self.region.word(0, 4)
        self._dies_holding = word & _TID_MASK == pid or bool(word & _OWNER_DIED)
        self._committed = self.region.word(_COMMIT) != self._commit

    def check(self, where: str) -> None:
        """The sleeper wakes, and finds what was committed; if nothing was, after a survivor's commit."""
        told: Told | None = None
        where = f"{where}, {self._form}"
        if self._committed or self._wait.held:
            told = self._hear(where)
        try:
            with self._mutex.lock(timeout=_PATIENCE + _SCHEDULING) as guard:
                knew = guard.abandoned or (told is not None and told[1])
                self.expect(
                    knew == self._dies_holding, "abandoned is told exactly when the holder died", where, told=knew
                )
                self.expect(
                    not (guard.abandoned and told is not None and told[1]), "a death is told once", where, told=told
                )
                self.proof.counts["abandoned"] += knew
                found, expected = guard.value, self._target - (not self._committed)
                self.expect(found == expected, "T is what was committed last", where, found=found, committed=expected)
                guard.value = self._target
        except Exception as error:
            self.expect(False, "a survivor has the lock within 1 s and can read T", where, error=error)
        if told is None:
            told = self._hear(where)
        if told is not None:
            expected = self._target - (self._wait.held and not self._committed)
            self.expect(
                told[0] == expected, "who waited finds what was committed", where, told=told[0], committed=expected
            )

    def _hear(self, where: str) -> Told | None:
        begun = time.monotonic()
        awake = bool(select.select([self._line], [], [], _PATIENCE + _SCHEDULING)[0])
        took = int(1e6 * (time.monotonic() - begun))
        longest = "longest sleep after a kill, microseconds"
        self.proof.counts[longest] = max(self.proof.counts[longest], took)
        self.expect(awake, "who sleeps wakes within 1 s", where, committed=self._committed)
        if not self._line.poll(_LIMIT):
            return None
        told: Told | str = self._line.recv()
        if isinstance(told, str):
            self.expect(False, "who sleeps gets what it waits for", where, error=told)
            return None
        return told

    def close(self) -> None:
        """End the sleeper, and the mutex."""
        super().close()
        end(self._sleeper)
        self._line.close()
        self._mutex.to_owned()


def _sleeps(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


def _sleep_on_demand(line: Connection, mutex: Any, forms: tuple[Callable[[Any, int], Told], ...], seed: int) -> None:
    """In the child that waits: told a T, wait for it in one of the forms, and say what was found. Does not return."""
    chance = random.Random(seed)
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with contextlib.suppress(EOFError):
            while True:
                target = line.recv()
                form = chance.choice(forms)
                line.send(form.__name__)
                try:
                    line.send(form(mutex, target))
                except Exception as error:
                    line.send(repr(error))
    finally:
        os._exit(0)
