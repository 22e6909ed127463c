"""RLock: owned by a thread, as a robust mutex is, and so is one. What it does is in the table of :mod:`.locks`."""

from __future__ import annotations

from multiprocessing import process, synchronize
from threading import TIMEOUT_MAX
from typing import Any

from ..core._core import CriticalSection, as_blocking
from ..errors import IrqlTooHigh, NotOwned
from .process_key import my_name
from .shared_state import Shared, must_not_block, waits

__all__ = ["RLock"]


class RLock(Shared, synchronize.RLock):
    """A recursive lock, owned by a thread. What a dead process or thread held is released."""

    def __init__(self, *, ctx: Any) -> None:
        self._attach(CriticalSection())

    def _attach(self, section: CriticalSection) -> None:
        self._section = section
        self._release_save = section._release_save
        self._acquire_restore = section._acquire_restore
        self._is_mine = section._is_owned

    def _shared(self) -> tuple[Any, ...]:
        return (self._section,)

    @property
    def abandoned(self) -> bool:
        """Whether the owner before the calling thread's present hold died."""
        return self._section.abandoned

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Acquire it once more. Returns False when it was not free in time.

        Args and errors as those of :meth:`Lock.acquire`.
        """
        if not waits(as_blocking(block), timeout):
            return self._section.acquire(False)
        if timeout is not None and timeout > TIMEOUT_MAX:
            timeout = None
        try:
            return self._section.acquire(True, timeout)
        except IrqlTooHigh:
            must_not_block("acquire")  # tells what to do with an RLock instead
            raise

    def release(self) -> None:
        """Release it once.

        Raises:
            AssertionError: the calling thread does not own it.
        """
        try:
            self._section.leave()
        except NotOwned:
            raise AssertionError("attempt to release recursive lock not owned by thread") from None

    def locked(self) -> bool:
        """Whether any thread of any process owns it that lives. Never blocks."""
        owner = self._section.owner
        return owner is not None and owner.alive

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        owner = self._section.owner
        name: str
        count: int | str
        if self._is_mine():
            name, count = my_name(), self._section._recursion_count()
        elif owner is None or not owner.alive:
            name, count = "None", 0
        else:
            name, count = (
                "SomeOtherThread" if owner.pid == process.current_process().pid else "SomeOtherProcess",
                "nonzero",
            )
        return f"<{type(self).__name__}({name}, {count})>"

    @property
    def _semlock(self) -> RLock:
        return self

    def _count(self) -> int:
        return self._section._recursion_count()

    def _get_value(self) -> int:
        return int(not self.locked())

    def _is_zero(self) -> bool:
        return self.locked()
