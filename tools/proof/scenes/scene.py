"""What every scene has, and what can be seen of the slots of its mutexes while an operation is under way."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

from wdkmutex_shm.base.layout import HEADER_BYTES, SLOT_BYTES

from ..base.harness import Proof
from ..base.stepping import LONGEST, Region, Stepper, mark, traced_child

PATIENCE = 1.0
"""Seconds within which a survivor must have the lock."""
_OWNER, _GENERATION, _COMMIT = 48, 64, 72
"""Where things are in a slot, see slot.h; the lock's word comes first."""
_TID_MASK, _OWNER_DIED = 0x3FFFFFFF, 0x40000000


class Seen(NamedTuple):
    """What could be seen of the mutexes of a scene when the operation ended, was interrupted, or was killed.

    Attributes:
        where: for the report.
        done: whether it is known to have come to its end.
        pid: of the process that was killed in it, 0 if nobody was.
        held: which of the locks were the dead one's.
        owners: the pids that were written down as those of the holders; None for none.
        commits: how many were published in each; None if that was not looked at.
        ended: whether the mutex is gone; None if that was not looked at.
    """

    where: str
    done: bool
    pid: int = 0
    held: tuple[bool, ...] = ()
    owners: tuple[int | None, ...] = ()
    commits: tuple[int, ...] | None = None
    ended: bool | None = None


class Slots:
    """The slots of some mutexes beside each other, mapped here to be looked at."""

    def __init__(self, mutexes: list[Any]) -> None:
        self._places = [mutex.slot_index for mutex in mutexes]
        self._first = min(self._places)
        size = (max(self._places) + 1 - self._first) * SLOT_BYTES
        self.region = Region(mutexes[0].segment, HEADER_BYTES + self._first * SLOT_BYTES, size)
        self._commits = self._words(_COMMIT)
        self._generations = self._words(_GENERATION)

    def _words(self, offset: int, size: int = 8) -> list[int]:
        return [self.region.word((place - self._first) * SLOT_BYTES + offset, size) for place in self._places]

    def held_by(self, pid: int) -> tuple[bool, ...]:
        """Which of the locks a process has that is about to be killed, if any, or another one had that died."""
        return tuple(word & _TID_MASK == (pid or -1) or bool(word & _OWNER_DIED) for word in self._words(0, 4))

    def _committed(self) -> tuple[int, ...]:
        """How often each was committed since this was made."""
        return tuple(now - then for now, then in zip(self._words(_COMMIT), self._commits, strict=True))

    def look(self, where: str, pid: int) -> Seen:
        """All there is to be seen of them while ``pid`` is stopped."""
        owners = tuple(word >> 32 & 0x3FFFFF or None for word in self._words(_OWNER))
        ended = self._words(_GENERATION) != self._generations
        return Seen(where, False, pid, self.held_by(pid), owners, self._committed(), ended)


class Scene(abc.ABC):
    """One operation. A round of it is ``prepare``, ``do`` as far as that comes, and ``check``.

    Args:
        proof: who is told of broken promises.

    Attributes:
        name: for people and the command line.
        within: whether ``do`` itself marks where what is looked at begins and ends.
        warm_up: how often it is done first: what is made at first use is no part of the operation.
        slots: what is looked at, from ``prepare`` to ``check``; None for nothing.
    """

    name: str
    within = False
    warm_up = 0

    def __init__(self, proof: Proof) -> None:
        self.proof = proof
        self.slots: Slots | None = None
        self._where = ""

    @property
    def region(self) -> Region | None:
        """Shared memory that tells when the victim has changed something."""
        return self.slots.region if self.slots is not None else None

    def prepare(self) -> None:  # noqa: B027 - most are set up already
        """Set everything up."""

    @abc.abstractmethod
    def do(self, mark: Callable[[], object]) -> None:
        """The operation."""

    def begin(self, stepper: Stepper) -> int:
        """Set everything up and return the pid of a traced victim that is stopped right before the operation."""
        self.prepare()
        pid = traced_child(lambda: self.do(mark), LONGEST, marks=not self.within)
        assert stepper.begin(pid)
        return pid

    def look(self, where: str, pid: int) -> Seen:
        """What the victim, which is stopped and about to be killed, has reached."""
        return self.slots.look(where, pid) if self.slots is not None else Seen(where, False, pid)

    @abc.abstractmethod
    def check(self, seen: Seen) -> None:
        """See to it that whoever comes afterwards finds what was promised, and that nothing is left."""

    def reached(self, seen: Seen) -> None:
        """Check, and remember where it was for :meth:`expect`."""
        self._where = seen.where
        self.check(seen)

    def warm(self) -> None:
        """Do it some times, to its end."""
        for _ in range(self.warm_up):
            self.prepare()
            self.do(lambda: None)
            self.reached(Seen("the warm-up", True))

    def expect(self, holds: bool, promise: str, **facts: object) -> bool:
        """Report a broken promise unless it holds."""
        return self.proof.expect(holds, promise, operation=self.name, where=self._where, **facts)

    def abandoned(self, told: bool, held: bool) -> None:
        """Whoever comes after a death is told of it, and nobody else."""
        self.expect(told == held, "abandoned is told exactly when the holder died", told=told)
        self.proof.counts["abandoned"] += told

    def watch(self, *mutexes: Any) -> None:
        """Look at the slots of these from now on."""
        self.forget()
        self.slots = Slots(list(mutexes))

    def forget(self) -> None:
        """Unmap what was looked at."""
        if self.slots is not None:
            self.slots.region.close()
            self.slots = None

    def close(self) -> None:
        """Give everything back."""
        self.forget()
