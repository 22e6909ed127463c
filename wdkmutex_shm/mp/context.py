"""The contexts: as those of multiprocessing, with our types in the place of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from multiprocessing import context as stock
from multiprocessing import sharedctypes
from typing import TYPE_CHECKING, Any

from . import defaults, processes

if TYPE_CHECKING:
    from .barrier import Barrier
    from .condition import Condition
    from .event import Event
    from .locks import Lock
    from .pool import Pool
    from .queues import JoinableQueue, Queue, SimpleQueue
    from .rlock import RLock
    from .semaphores import BoundedSemaphore, Semaphore

__all__ = ["ForkContext", "ForkServerContext", "SpawnContext", "get_context"]

# The methods return types of ours, which have all that those of multiprocessing have.
# mypy: disable-error-code="override"


class _Types(stock.BaseContext):
    """What a context makes. Everything else is inherited."""

    def Lock(self) -> Lock:  # noqa: N802
        """Return a non-recursive lock, which any process or thread may release."""
        from .locks import Lock

        return Lock(ctx=self.get_context())

    def RLock(self) -> RLock:  # noqa: N802
        """Return a recursive lock, owned by a thread."""
        from .rlock import RLock

        return RLock(ctx=self.get_context())

    def Condition(self, lock: Any = None) -> Condition:  # noqa: N802
        """Return a condition variable."""
        from .condition import Condition

        return Condition(lock, ctx=self.get_context())

    def Semaphore(self, value: int = 1) -> Semaphore:  # noqa: N802
        """Return a semaphore."""
        from .semaphores import Semaphore

        return Semaphore(value, ctx=self.get_context())

    def BoundedSemaphore(self, value: int = 1) -> BoundedSemaphore:  # noqa: N802
        """Return a semaphore that cannot be released more often than it was acquired."""
        from .semaphores import BoundedSemaphore

        return BoundedSemaphore(value, ctx=self.get_context())

    def Event(self) -> Event:  # noqa: N802
        """Return an event."""
        from .event import Event

        return Event(ctx=self.get_context())

    def Barrier(  # noqa: N802
        self, parties: int, action: Callable[..., object] | None = None, timeout: float | None = None
    ) -> Barrier:
        """Return a barrier."""
        from .barrier import Barrier

        return Barrier(parties, action, timeout, ctx=self.get_context())

    def Queue(self, maxsize: int = 0) -> Queue:  # noqa: N802
        """Return a queue with a feeder thread in each process that puts."""
        from .queues import Queue

        return Queue(maxsize, ctx=self.get_context())

    def JoinableQueue(self, maxsize: int = 0) -> JoinableQueue:  # noqa: N802
        """Return a queue that can be joined."""
        from .queues import JoinableQueue

        return JoinableQueue(maxsize, ctx=self.get_context())

    def SimpleQueue(self) -> SimpleQueue:  # noqa: N802
        """Return a queue without a feeder thread."""
        from .queues import SimpleQueue

        return SimpleQueue(ctx=self.get_context())

    def Pool(  # noqa: N802
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
    ) -> Pool:
        """Return a pool of workers."""
        from .pool import Pool

        return Pool(processes, initializer, initargs, maxtasksperchild, context=self.get_context())

    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True) -> Any:  # noqa: N802
        """Return a shared ctypes object behind one of our recursive locks."""
        return sharedctypes.Value(typecode_or_type, *args, lock=lock, ctx=self.get_context())

    def Array(self, typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True) -> Any:  # noqa: N802
        """Return a shared ctypes array behind one of our recursive locks."""
        return sharedctypes.Array(typecode_or_type, size_or_initializer, lock=lock, ctx=self.get_context())

    def get_context(self, method: str | None = None) -> Any:
        """Return this context, or that of another start method."""
        return self if method is None else get_context(method)


class ForkContext(_Types, stock.ForkContext):
    """Children are forked."""

    Process = processes.ForkProcess


class SpawnContext(_Types, stock.SpawnContext):
    """Children are new interpreters."""

    Process = processes.SpawnProcess


class ForkServerContext(_Types, stock.ForkServerContext):
    """Children are forked from a clean server process."""

    Process = processes.ForkServerProcess


_contexts: dict[str, ForkContext | SpawnContext | ForkServerContext] = {
    "fork": ForkContext(),
    "spawn": SpawnContext(),
    "forkserver": ForkServerContext(),
}


def get_context(method: str | None = None) -> ForkContext | SpawnContext | ForkServerContext:
    """Return the crash-proof context of a start method.

    Args:
        method: ``fork``, ``spawn`` or ``forkserver``; None: the method that multiprocessing would use.

    Raises:
        ValueError: there is no such method.
    """
    try:
        return _contexts[multiprocessing.get_start_method() if method is None else method]
    except KeyError:
        raise ValueError(f"cannot find context for {method!r}") from None


defaults.set_default_context(get_context)
