"""A task that sleeps until another thread wakes it, in asyncio (whichever loop runs it) and in Trio.

Both are found in :data:`sys.modules`, so that nobody pays for importing the one that it does not use. What is built on
top of the two, such as AnyIO, uses the loop of one of them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol

from ..core._core import seconds_of

if TYPE_CHECKING:
    import asyncio

__all__ = ["Waiter", "waiter"]


class Waiter(Protocol):
    """One task, from when it begins to wait until it has what it waits for or gives up.

    Attributes:
        loop: whatever runs the task; only compared.
        asked: it was woken and has not looked since.
    """

    loop: Any
    asked: bool

    def passed(self) -> bool:
        """Whether the timeout is over."""
        ...

    def now(self) -> float:
        """The clock of the loop, in seconds."""
        ...

    def wake(self) -> bool:
        """Make it look; False if its loop has ended. From any thread, also in a finalizer; never blocks."""
        ...

    async def wait(self, until: float | None) -> None:
        """Sleep until woken, that time of the loop's clock, or the timeout. Ends at once if woken meanwhile."""
        ...


def _earlier(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else min(one, other)


class AsyncioWaiter:
    """A :class:`Waiter` of asyncio."""

    __slots__ = ("_deadline", "_future", "_running", "asked", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float | None) -> None:
        self.loop = loop
        self.asked = False
        self._running = sys.modules["asyncio"]._get_running_loop
        self._deadline = None if timeout is None else loop.time() + timeout
        self._future: asyncio.Future[None] | None = None

    def passed(self) -> bool:
        return self._deadline is not None and self.loop.time() >= self._deadline

    def now(self) -> float:
        return self.loop.time()

    def wake(self) -> bool:
        if self.asked:
            return not self.loop.is_closed()
        self.asked = True
        try:
            if self._running() is self.loop:
                self._end()
            else:
                self.loop.call_soon_threadsafe(self._end)
        except RuntimeError:  # it is closed
            return False
        return True

    def _end(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self, until: float | None) -> None:
        until = _earlier(until, self._deadline)
        timer = None
        self._future = self.loop.create_future()
        try:
            if not self.asked:
                if until is not None:
                    timer = self.loop.call_at(until, self._end)
                await self._future
        finally:
            self._future = None
            if timer is not None:
                timer.cancel()


class TrioWaiter:
    """A :class:`Waiter` of Trio."""

    __slots__ = ("_deadline", "_event", "_trio", "asked", "loop")

    def __init__(self, trio: Any, timeout: float | None) -> None:
        self.loop = trio.lowlevel.current_trio_token()
        self.asked = False
        self._trio = trio
        self._deadline = None if timeout is None else trio.current_time() + timeout
        self._event: Any = None

    def passed(self) -> bool:
        return self._deadline is not None and self._trio.current_time() >= self._deadline

    def now(self) -> float:
        time: float = self._trio.current_time()
        return time

    def wake(self) -> bool:
        if not self.asked:
            self.asked = True
            try:
                self.loop.run_sync_soon(self._end)
            except self._trio.RunFinishedError:
                return False
        return True

    def _end(self) -> None:
        if self._event is not None:
            self._event.set()

    async def wait(self, until: float | None) -> None:
        until = _earlier(until, self._deadline)
        self._event = self._trio.Event()
        try:
            if not self.asked:
                with self._trio.move_on_at(float("inf") if until is None else until):
                    await self._event.wait()
        finally:
            self._event = None


def waiter(timeout: float | None) -> Waiter:
    """Return a waiter for the running task, whose timeout begins now. Raises RuntimeError where none runs."""
    timeout = seconds_of(timeout)
    asyncio = sys.modules.get("asyncio")
    running = getattr(asyncio, "_get_running_loop", None)  # None as well while another thread imports it
    loop = None if running is None else running()
    if asyncio is not None and loop is not None and asyncio.current_task(loop) is not None:
        return AsyncioWaiter(loop, timeout)
    trio = sys.modules.get("trio")
    if trio is None:
        raise RuntimeError("lock_async() needs a task of asyncio or Trio, and none runs in this thread")
    return TrioWaiter(trio, timeout)
