"""Somebody sleeps until a victim commits, or releases, which is killed as it does: the sleeper must not sleep on."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import select
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from wdkmutex_shm import FastMutex, lock_all, lock_any

from ..base.children import fork, status_of
from ..base.harness import Proof
from ..base.stepping import LONGEST, Stepper, end, mark, traced_child
from ..operations.actor import Actor
from ..operations.catalogue import OPERATIONS
from .scene import PATIENCE, Scene, Seen

_SCHEDULING = 0.5  # seconds that a busy machine needs to wake the sleeper
_LIMIT = 10.0
_SETTLED = 0.02
VALUES = "lock_when", "wait_for", "guard.wait_for", "changes", "wait_for_async"
"""Operations that wait for a commit."""
RELEASES = "commit", "lock_any", "lock_all", "lock_async"
"""Operations that wait for the lock."""


class Sleeper(Actor):
    """The actor of the operations that wait: of T it wants what is new enough, and changes nothing.

    Attributes:
        found: the T that it has found. told: whether it was told of a death.
    """

    timeout = _LIMIT

    def __init__(self, mutex: Any, target: int, chance: random.Random) -> None:
        self.chance = chance
        self.found = 0
        self.told = False
        self._mutex = mutex
        self._target = target

    def handle(self, at: Any) -> Any:
        return self._mutex

    def lock(self, at: Any) -> Any:
        return self.had(at, self._mutex.lock(_LIMIT))

    def lock_all(self, *places: Any) -> Any:
        guards = lock_all(self._mutex, FastMutex(0), timeout=_LIMIT)
        self.had(None, guards[0])
        return guards

    def lock_any(self, *places: Any) -> tuple[int, Any]:
        index, guard = lock_any(self._mutex, timeout=_LIMIT)
        return index, self.had(None, guard)

    def had(self, at: Any, hold: Any) -> Any:
        self.told = self.told or hold.abandoned
        return hold

    def next(self, at: Any, value: int) -> int:
        self.found = value or self.found
        return value

    def news(self, at: Any) -> Callable[[int], bool]:
        return lambda value: value >= self._target

    def arrived(self, news: Any, value: int) -> None:
        self.found = value

    def follow(self, news: Any, value: int) -> bool:
        self.found = value
        return value < self._target


class WaitingScene(Scene):
    """A commit and a release, for which another child of this process waits, and lives on.

    Args:
        proof: who is told of broken promises.
        name: of the scene. kind: of the mutex.
        held: whether the victim has the lock before it is looked at, so that only its release is.
    """

    within = True

    def __init__(self, proof: Proof, name: str, kind: Any, held: bool) -> None:
        super().__init__(proof)
        self.name = name
        self._held = held
        self._mutex: Any = kind(0)
        self._target = 0
        self._form = ""
        for _ in range(20):  # what is made at first use is no part of the operation
            self.do(lambda: None)
        self._line, theirs = multiprocessing.Pipe()
        seed = proof.random.getrandbits(32)
        self._sleeper = fork(lambda: _sleep_on_demand(theirs, self._mutex, RELEASES if held else VALUES, seed))
        theirs.close()

    def do(self, mark: Callable[[], object]) -> None:
        if not self._held:
            mark()
        guard = self._mutex.lock()
        guard.value = self._target
        if self._held:
            mark()
        guard.drop_safe()
        mark()

    def begin(self, stepper: Stepper) -> int:
        """The sleeper sleeps before the victim commits, or once it has the lock."""
        self._target += 1
        self.watch(self._mutex)
        if not self._held:
            self._order()
        pid = traced_child(lambda: self.do(mark), LONGEST, marks=False)
        assert stepper.begin(pid)
        if self._held:
            self._order()
        return pid

    def _order(self) -> None:
        """Let the sleeper wait, and return when it sleeps."""
        self._line.send(self._target)
        assert self._line.poll(_LIMIT)
        self._form = self._line.recv()
        deadline = time.monotonic() + _LIMIT
        while status_of(self._sleeper)[:1] != ["S"] and time.monotonic() < deadline:
            time.sleep(0)
        if self.proof.random.random() < 0.5:
            # By then it has looked again, and asked to be served next.
            time.sleep(self.proof.random.random() * _SETTLED)

    def look(self, where: str, pid: int) -> Seen:
        return super().look(f"{where}, {self._form}", pid)

    def check(self, seen: Seen) -> None:
        """The sleeper wakes, and finds what was committed; if nothing was, after a survivor's commit."""
        committed = any(seen.commits or ())
        told = self._hear(committed) if committed or self._held else None
        expected = self._target - (not committed)
        try:
            with self._mutex.lock(timeout=PATIENCE + _SCHEDULING) as guard:
                early = told is not None and told[1]
                self.abandoned(guard.abandoned or early, any(seen.held))
                self.expect(not (guard.abandoned and early), "a death is told once", told=told)
                found = guard.value
                self.expect(found == expected, "T is what was committed last", found=found, committed=expected)
                guard.value = self._target
        except Exception as error:
            self.expect(False, "a survivor has the lock within 1 s and can read T", error=error)
        if told is None:
            told = self._hear(committed)
        if told is not None:
            expected = self._target - (self._held and not committed)
            same = told[0] == expected
            self.expect(same, "who waited finds what was committed", told=told[0], committed=expected)

    def _hear(self, committed: bool) -> tuple[int, bool] | None:
        begun = time.monotonic()
        awake = bool(select.select([self._line], [], [], PATIENCE + _SCHEDULING)[0])
        took = int(1e6 * (time.monotonic() - begun))
        self.proof.longest("longest sleep after a kill, microseconds", took)
        self.expect(awake, "who sleeps wakes within 1 s", committed=committed)
        if not self._line.poll(_LIMIT):
            return None
        told: tuple[int, bool] | str = self._line.recv()
        if isinstance(told, str):
            self.expect(False, "who sleeps gets what it waits for", error=told)
            return None
        return told

    def close(self) -> None:
        """End the sleeper, and the mutex."""
        super().close()
        end(self._sleeper)
        self._line.close()
        self._mutex.to_owned()


def _sleep_on_demand(line: Connection, mutex: Any, forms: tuple[str, ...], seed: int) -> None:
    """In the child that waits: told a T, wait for it in one of the forms, and say what was found."""
    chance = random.Random(seed)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError):
        while True:
            sleeper = Sleeper(mutex, line.recv(), chance)
            form = OPERATIONS[chance.choice(forms)]
            line.send(form.name)
            try:
                form.do(sleeper, *range(2 if form.name == "lock_all" else 1))
                line.send((sleeper.found, sleeper.told))
            except Exception as error:
                line.send(repr(error))
