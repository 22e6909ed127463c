"""What a peer is: something that users guard a shared counter with."""

from __future__ import annotations

import importlib
import importlib.metadata
import mmap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import repeat
from typing import Any, ClassVar

__all__ = ["CellCounter", "Counter", "Peer", "cell", "counting"]


class Counter:
    """A counter behind a lock, shared by this process and those that it forks.

    Attributes:
        lock: what ``with`` takes to lock it; None where the peer has no such thing.
    """

    lock: AbstractContextManager[Any] | None = None

    def increment(self, n: int) -> None:
        """Add one under the lock, ``n`` times."""
        raise NotImplementedError

    def value(self) -> int:
        """What it stands at."""
        raise NotImplementedError

    def before_fork(self) -> None:
        """Let go of what a forked child must not inherit, as the peer's documents ask for."""

    def after_fork(self) -> None:
        """Make it usable again, in the child and in the parent."""


class Peer:
    """A library, or a part of one, as its own users use it.

    Attributes:
        name: for the report.
        package: the distribution that it comes from, empty for the standard library.
        modules: what must be importable.
        contended: it is worth measuring with several processes at once.
        asyncio: to import it may import asyncio; from then on our locks must ask whether an event loop runs.
        note: what it does more or less than a mutex that owns its data.
    """

    name: ClassVar[str]
    package: ClassVar[str] = ""
    modules: ClassVar[tuple[str, ...]] = ()
    contended: ClassVar[bool] = True
    asyncio: ClassVar[bool] = False
    note: ClassVar[str] = ""

    def missing(self) -> str | None:
        """Why it cannot be measured here, None if it can."""
        for module in self.modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                return f"{self.name}: {self.package or module} cannot be imported ({error}); ./tools/bench installs it"
        return None

    def version(self) -> str:
        """Its version, empty for the standard library."""
        try:
            return importlib.metadata.version(self.package) if self.package else ""
        except importlib.metadata.PackageNotFoundError:
            return "unknown"

    @contextmanager
    def open(self, scratch: str) -> Iterator[Counter]:
        """A new counter at zero; ``scratch`` is a folder in shared memory for files."""
        raise NotImplementedError
        yield Counter()  # type: ignore[unreachable]


def cell() -> memoryview:
    """One 64-bit int, at zero, in memory that forked children share: ``cell()[0]``."""
    return memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")


def counting(lock: AbstractContextManager[Any], cells: memoryview) -> Callable[[int], None]:
    """A loop that locks and adds one to the first cell."""

    def increment(n: int) -> None:
        for _ in repeat(None, n):
            with lock:
                cells[0] += 1

    return increment


class CellCounter(Counter):
    """A lock, made anew in each forked child if ``make`` is given for that, and an int in mapped memory."""

    def __init__(
        self, lock: AbstractContextManager[Any], make: Callable[[], AbstractContextManager[Any]] | None = None
    ) -> None:
        self._make = make
        self._cells = cell()
        self._set(lock)

    def _set(self, lock: AbstractContextManager[Any]) -> None:
        self.lock = lock
        self._run = counting(lock, self._cells)

    def increment(self, n: int) -> None:
        self._run(n)

    def value(self) -> int:
        return int(self._cells[0])

    def after_fork(self) -> None:
        if self._make is not None:
            self._set(self._make())
