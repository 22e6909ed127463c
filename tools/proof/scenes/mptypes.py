"""Types of multiprocessing: released, or put into, by a victim that is killed on the way."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Callable
from typing import Any

from wdkmutex_shm import mp
from wdkmutex_shm.core._segment import HEADER_BYTES, SLOT_BYTES

from ..base.harness import Proof
from ..base.stepping import LONGEST, Region, Stepper, mark, traced_child
from . import Scene

__all__ = ["TYPES"]

_PATIENCE = 1.0
"""Seconds within which a survivor must have what the victim had."""
_WARM_UP = 20
_SIZE = 2  # of the queue
_SOON = 0.2

_numbers = itertools.count(1)


class _TypeScene(Scene):
    """What one type does, in a forked child. ``cell`` is the mutex whose T is its state, if it has one."""

    def __init__(self, proof: Proof, stepper: Stepper, made: Any, cell: Any) -> None:
        super().__init__(proof, stepper)
        self._made = made
        if cell is not None:
            self.region = Region(cell.segment, HEADER_BYTES + cell.slot_index * SLOT_BYTES, SLOT_BYTES)

    def act(self, mark: Callable[[], object]) -> None:
        """Do it, in the victim; call ``mark`` where what is looked at begins and ends."""
        raise NotImplementedError

    def begin(self) -> int:
        """Nobody else uses it."""
        pid = traced_child(lambda: self.act(mark), LONGEST, marks=False)
        assert self.stepper.begin(pid)
        return pid

    def look(self, pid: int) -> None:
        """Nothing to note."""


class _ReleaseScene(_TypeScene):
    """The release of what the victim has acquired."""

    def __init__(self, proof: Proof, stepper: Stepper, made: Any, cell: Any) -> None:
        super().__init__(proof, stepper, made, cell)
        for _ in range(_WARM_UP):
            self.act(lambda: None)

    def act(self, mark: Callable[[], object]) -> None:
        self._made.acquire()
        mark()
        self._made.release()
        mark()


class LockScene(_ReleaseScene):
    """The release of a Lock."""

    name = "mp-lock-release"

    def __init__(self, proof: Proof, stepper: Stepper) -> None:
        made = mp.get_context("fork").Lock()
        super().__init__(proof, stepper, made, made._word)
        self._held = False

    def look(self, pid: int) -> None:
        """Whether it is released."""
        self._held = self._made.locked()

    def check(self, where: str) -> None:
        """A survivor acquires it, and is told of the death if there was one."""
        if not self.expect(self._made.acquire(timeout=_PATIENCE), "a survivor has the lock within 1 s", where):
            return
        told = self._made.abandoned
        self.proof.counts["abandoned"] += told
        self.expect(told == self._held, "abandoned is told exactly when the holder died", where, told=told)
        self.expect(not self._made.acquire(False), "it is had once", where)
        self._made.release()
        self.expect(not self._made.locked(), "it is free in the end", where)


class SemaphoreScene(_ReleaseScene):
    """The release of one of two that a semaphore has."""

    name = "mp-semaphore-release"

    def __init__(self, proof: Proof, stepper: Stepper) -> None:
        made = mp.get_context("fork").BoundedSemaphore(2)
        super().__init__(proof, stepper, made, made._cell.mutex)

    def check(self, where: str) -> None:
        """A survivor can have both, and no third one."""
        for count in range(2):
            if not self.expect(self._made.acquire(timeout=_PATIENCE), "what the dead had can be had", where, had=count):
                return
        self.expect(not self._made.acquire(False), "nothing is given back twice", where)
        for _ in range(2):
            self._made.release()
        found = self._made.get_value()
        self.expect(found == 2, "all are there in the end", where, value=found)


class QueueScene(_TypeScene):
    """An item put into a Queue with a ``maxsize``; what its other thread does meanwhile is not led."""

    name = "mp-queue-put"

    def __init__(self, proof: Proof, stepper: Stepper) -> None:
        made: Any = mp.get_context("fork").Queue(_SIZE)
        super().__init__(proof, stepper, made, made._ledger.cell.mutex)

    def act(self, mark: Callable[[], object]) -> None:
        number = next(_numbers)
        mark()
        self._made.put(("item", number))
        mark()

    def check(self, where: str) -> None:
        """The item is there, whole, or it is not; and there is room for as many as ever."""
        next(_numbers)
        items = self._take(where)
        self.expect(len(items) <= 1, "one item was put", where, found=str(items))
        for _ in range(_SIZE):
            try:
                self._made.put(("survivor", 0), timeout=_PATIENCE)
            except queue.Full:
                self.expect(False, "what the dead had reserved is free within 1 s", where, size=self._made.qsize())
                return
        try:
            for _ in range(_SIZE):
                self._made.get(timeout=_PATIENCE)
        except queue.Empty:
            self.expect(False, "what a survivor puts comes out", where)

    def _take(self, where: str) -> list[Any]:
        items: list[Any] = []
        try:
            while True:
                item = self._made.get(timeout=_SOON if self._made._reader.poll() else 0)
                self.expect(item[0] == "item", "an item is whole", where, item=item)
                items.append(item)
        except queue.Empty:
            return items

    def close(self) -> None:
        """Close both ends."""
        super().close()
        self._made.close()
        self._made.join_thread()
        self._made._writer.close()


class SimpleQueueScene(_TypeScene):
    """An item sent through a SimpleQueue."""

    name = "mp-simple-queue-put"

    def __init__(self, proof: Proof, stepper: Stepper) -> None:
        super().__init__(proof, stepper, mp.get_context("fork").SimpleQueue(), None)
        for _ in range(_WARM_UP):
            self.act(lambda: None)
            self._made.get()

    def act(self, mark: Callable[[], object]) -> None:
        number = next(_numbers)
        mark()
        self._made.put(("item", number))
        mark()

    def check(self, where: str) -> None:
        """The item is there, whole and once, or it is not; the next one comes through."""
        next(_numbers)
        self._made.put("survivor")
        items: list[Any] = []
        while not items or items[-1] != "survivor":
            if not self.expect(self._made._reader.poll(_PATIENCE), "what a survivor puts comes out", where):
                return
            items.append(self._made.get())
        whole = all(isinstance(item, tuple) and item[0] == "item" for item in items[:-1])
        self.expect(len(items) <= 2 and whole, "an item is there as a whole, or not", where, items=str(items))

    def close(self) -> None:
        """Close both ends."""
        super().close()
        self._made.close()


TYPES: dict[str, Callable[[Proof, Stepper], Scene]] = {
    scene.name: scene for scene in (LockScene, SemaphoreScene, QueueScene, SimpleQueueScene)
}
