"""Types of multiprocessing: released, or put into, by a victim that is killed on the way."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Callable
from typing import Any

from wdkmutex_shm import mp

from ..base.harness import Proof
from .scene import PATIENCE, Scene, Seen

_SIZE = 2  # of the queue
_SOON = 0.2
_numbers = itertools.count(1)


class _ReleaseScene(Scene):
    """The release of what the victim has acquired."""

    within = True
    warm_up = 20

    def __init__(self, proof: Proof, made: Any, cell: Any) -> None:
        super().__init__(proof)
        self._made = made
        self.watch(cell)
        for _ in range(self.warm_up):
            self.do(lambda: None)

    def do(self, mark: Callable[[], object]) -> None:
        self._made.acquire()
        mark()
        self._made.release()
        mark()


class LockScene(_ReleaseScene):
    """The release of a Lock."""

    name = "mp-lock-release"

    def __init__(self, proof: Proof) -> None:
        made = mp.get_context("fork").Lock()
        super().__init__(proof, made, made._word)
        self._held = False

    def look(self, where: str, pid: int) -> Seen:
        """Whether it is released."""
        self._held = self._made.locked()
        return super().look(where, pid)

    def check(self, seen: Seen) -> None:
        """A survivor acquires it, and is told of the death if there was one."""
        if not self.expect(self._made.acquire(timeout=PATIENCE), "a survivor has the lock within 1 s"):
            return
        self.abandoned(self._made.abandoned, self._held)
        self.expect(not self._made.acquire(False), "it is acquired once")
        self._made.release()
        self.expect(not self._made.locked(), "it is free in the end")


class SemaphoreScene(_ReleaseScene):
    """The release of one of two that a semaphore has."""

    name = "mp-semaphore-release"

    def __init__(self, proof: Proof) -> None:
        made = mp.get_context("fork").BoundedSemaphore(2)
        super().__init__(proof, made, made._cell.mutex)

    def check(self, seen: Seen) -> None:
        """A survivor can have both, and no third one."""
        for count in range(2):
            if not self.expect(self._made.acquire(timeout=PATIENCE), "what the dead had can be had", had=count):
                return
        self.expect(not self._made.acquire(False), "nothing is given back twice")
        for _ in range(2):
            self._made.release()
        found = self._made.get_value()
        self.expect(found == 2, "all are there in the end", value=found)


class _PutScene(Scene):
    """An item put into a queue; what the queue's other thread does meanwhile is not led."""

    def __init__(self, proof: Proof, made: Any) -> None:
        super().__init__(proof)
        self._made = made

    def prepare(self) -> None:
        self._number = next(_numbers)

    def do(self, mark: Callable[[], object]) -> None:
        self._made.put(("item", self._number))

    def close(self) -> None:
        """Close both ends."""
        super().close()
        self._made.close()


class QueueScene(_PutScene):
    """An item put into a Queue with a ``maxsize``."""

    name = "mp-queue-put"

    def __init__(self, proof: Proof) -> None:
        super().__init__(proof, mp.get_context("fork").Queue(_SIZE))
        self.watch(self._made._counts.cell.mutex)

    def check(self, seen: Seen) -> None:
        """The item is there, whole, or it is not; and there is room for as many as ever."""
        items = self._take()
        self.expect(len(items) <= 1, "one item was put", found=str(items))
        for _ in range(_SIZE):
            try:
                self._made.put(("survivor", 0), timeout=PATIENCE)
            except queue.Full:
                self.expect(False, "what the dead had reserved is free within 1 s", size=self._made.qsize())
                return
        try:
            for _ in range(_SIZE):
                self._made.get(timeout=PATIENCE)
        except queue.Empty:
            self.expect(False, "what a survivor puts comes out")

    def _take(self) -> list[Any]:
        items: list[Any] = []
        try:
            while True:
                item = self._made.get(timeout=_SOON if self._made._reader.poll() else 0)
                self.expect(item == ("item", self._number), "an item is whole", item=item)
                items.append(item)
        except queue.Empty:
            return items

    def close(self) -> None:
        super().close()
        self._made.join_thread()
        self._made._writer.close()


class SimpleQueueScene(_PutScene):
    """An item sent through a SimpleQueue."""

    name = "mp-simple-queue-put"
    warm_up = 20

    def __init__(self, proof: Proof) -> None:
        super().__init__(proof, mp.get_context("fork").SimpleQueue())
        self.warm()

    def check(self, seen: Seen) -> None:
        """The item is there, whole and once, or it is not; the next one comes through."""
        self._made.put("survivor")
        items: list[Any] = []
        while not items or items[-1] != "survivor":
            if not self.expect(self._made._reader.poll(PATIENCE), "what a survivor puts comes out"):
                return
            items.append(self._made.get())
        whole = all(item == ("item", self._number) for item in items[:-1])
        self.expect(len(items) <= 2 and whole, "an item is there as a whole, or not", items=str(items))
