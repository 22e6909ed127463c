"""Several mutexes published as one, by a victim that is killed on the way."""

from __future__ import annotations

from typing import Any, NamedTuple

from wdkmutex_shm import FastMutex, KMutex, lock_all
from wdkmutex_shm.base.names import user_prefix
from wdkmutex_shm.core._segment import HEADER_BYTES, SLOT_BYTES
from wdkmutex_shm.memory import journal_files, shm
from wdkmutex_shm.pool import private, sweep

from ..base.harness import Proof
from ..base.stepping import LONGEST, Region, Stepper, traced_child
from . import Scene

__all__ = ["TRANSFERS", "SeveralScene", "Transfer"]

_COMMIT = 72
"""Where the commit word is in a slot, see slot.h; the lock's word comes first."""
_TID_MASK, _OWNER_DIED = 0x3FFFFFFF, 0x40000000
_PATIENCE = 1.0
"""Seconds within which a survivor must have the locks."""
_WARM_UP = 20


class Transfer(NamedTuple):
    """What is published together.

    Attributes:
        name: of the operation.
        kinds: of the mutexes.
        old, new: their T before and after.
    """

    name: str
    kinds: tuple[Any, ...]
    old: tuple[Any, ...]
    new: tuple[Any, ...]


TRANSFERS = (
    Transfer("lock-all", (FastMutex, KMutex, FastMutex), (10, 20, 30), (11, 18, 31)),
    Transfer("lock-all-large", (KMutex, FastMutex, KMutex), (b"old", 1, b"o" * 300), (b"new" * 100, 2, b"n" * 5000)),
)


class SeveralScene(Scene):
    """A publication of several anonymous mutexes of this process, by a forked child, which makes its journal for it."""

    def __init__(self, proof: Proof, stepper: Stepper, transfer: Transfer) -> None:
        super().__init__(proof, stepper)
        self.name = transfer.name
        self._transfer = transfer
        self._mutexes: list[Any] = []
        self._commits: list[int] = []
        self._places: list[int] = []
        self._published = False
        self._victim = 0
        self._dies_holding: list[bool] = []
        for _ in range(_WARM_UP):  # what is made at first use is no part of the operation
            self._make()
            self._act()
            for mutex in self._mutexes:
                mutex.to_owned()

    def _make(self) -> None:
        transfer = self._transfer
        self._mutexes = [kind(old) for kind, old in zip(transfer.kinds, transfer.old, strict=True)]

    def _act(self) -> None:
        with lock_all(*self._mutexes) as guards:
            for guard, new in zip(guards, self._transfer.new, strict=True):
                guard.value = new

    def begin(self) -> int:
        """Mutexes that hold the old T, in slots beside each other."""
        self.forget_region()
        self._make()
        self._places = [mutex.slot_index for mutex in self._mutexes]
        first, last = min(self._places), max(self._places)
        segment = self._mutexes[0].segment
        self.region = Region(segment, HEADER_BYTES + first * SLOT_BYTES, (last + 1 - first) * SLOT_BYTES)
        self._commits = self._words(_COMMIT)
        pid = traced_child(self._act, LONGEST)
        assert self.stepper.begin(pid)
        return pid

    def _words(self, offset: int, size: int = 8) -> list[int]:
        assert self.region is not None
        first = min(self._places)
        return [self.region.word((place - first) * SLOT_BYTES + offset, size) for place in self._places]

    def look(self, pid: int) -> None:
        """Which locks the victim has, and whether anything was published: then everything must be."""
        self._victim = pid
        self._published = self._words(_COMMIT) != self._commits
        self._dies_holding = [word & _TID_MASK == pid or bool(word & _OWNER_DIED) for word in self._words(0, 4)]

    def check(self, where: str) -> None:
        """Survivors come to one of them, then to all: they find all old, or all new."""
        try:
            self._survive(where)
        except Exception as error:
            self.expect(False, "a survivor has the locks within 1 s and can read every T", where, error=error)
        for mutex in self._mutexes:
            mutex.to_owned()
        left = shm.listing(private.the_pool().prefix + ".d")
        self.expect(not left, "no data segment is left", where, left=left)
        journal_files._next_search.clear()  # or it would be looked for later only
        sweep.dead_private_pools()
        left = shm.listing(f"{user_prefix()}@{self._victim}.")
        self.expect(not left, "no journal is left", where, left=left)

    def _survive(self, where: str) -> None:
        first = self.proof.random.randrange(len(self._mutexes))
        with self._mutexes[first].lock(timeout=_PATIENCE) as guard:
            early = guard.value
            told = [guard.abandoned if at == first else False for at in range(len(self._mutexes))]
        if self.proof.random.random() < 0.5:
            sweep.dead_private_pools()
        with lock_all(*self._mutexes, timeout=_PATIENCE) as guards:
            found = tuple(guard.value for guard in guards)
            self.expect(not guards[first].abandoned, "a death is told once", where)
            told = [now or then for now, then in zip((guard.abandoned for guard in guards), told, strict=True)]
            self.expect(
                told == self._dies_holding,
                "abandoned is told for exactly those that the victim held",
                where,
                told=told,
                held=self._dies_holding,
            )
            self.proof.counts["abandoned"] += sum(told)
            old, new = self._transfer.old, self._transfer.new
            self.expect(found in (old, new), "all of them are published, or none", where, found=found)
            self.expect(early == found[first], "T stays as it was found first", where, early=early, found=found)
            if self._published:
                self.proof.counts["published"] += 1
                self.expect(found == new, "what was published stands", where, found=found)
            for guard in guards:
                guard.value = guard.value * 2
        with lock_all(*self._mutexes, timeout=_PATIENCE) as guards:
            self.expect(not any(guard.abandoned for guard in guards), "a death is told once", where)

    def close(self) -> None:
        """Remove the journal of this process, which it would keep to its end."""
        super().close()
        journal_files._close()
