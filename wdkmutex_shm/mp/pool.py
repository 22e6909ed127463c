"""Pool: as ``multiprocessing.pool.Pool``, and goes on when workers are killed.

The pool of multiprocessing stops forever when a worker is killed: one that was idle took the lock of the task queue
with it, one that was busy took the task. Here no channel has a lock, and :mod:`.supervisor` keeps the books.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable
from multiprocessing import pool
from typing import Any

from .channel import LostMessage, NotTaken
from .defaults import default_context
from .supervisor import Supervisor

__all__ = ["Pool"]


class Pool(pool.Pool):
    """A pool of workers; see ``multiprocessing.Pool``.

    A worker that dies is replaced. If it was working, its task (for ``map`` with chunks: its chunk) fails with
    :class:`~wdkmutex_shm.WorkerDied`, because nobody can know what of it was done; all other tasks are done. One that
    was idle is not missed.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
    ) -> None:
        context = default_context() if context is None else context
        super().__init__(processes, initializer, initargs, maxtasksperchild, context)
        self._supervisor.wake = functools.partial(self._change_notifier.put, None)  # type: ignore[attr-defined]

    def _setup_queues(self) -> None:
        self._inqueue = self._ctx.SimpleQueue()  # type: ignore[attr-defined]
        self._outqueue = self._ctx.SimpleQueue()  # type: ignore[attr-defined]
        self._supervisor = supervisor = Supervisor(self._inqueue, self._outqueue)
        self.Process = supervisor.start  # type: ignore[method-assign, assignment]
        self._quick_put = supervisor.send
        self._quick_get = supervisor.receive

    def _map_async(
        self, func: Any, iterable: Any, mapper: Any, chunksize: int | None = None, *callbacks: Any
    ) -> pool.MapResult[Any]:
        # multiprocessing divides by the number of workers: there is none for an instant when all of them were killed.
        if chunksize is None:
            self._check_running()  # type: ignore[attr-defined]
            if not hasattr(iterable, "__len__"):
                iterable = list(iterable)
            chunksize = -(-len(iterable) // (self._processes * 4))  # type: ignore[attr-defined]
        return super()._map_async(func, iterable, mapper, chunksize, *callbacks)  # type: ignore[misc, no-any-return]

    @staticmethod
    def _help_stuff_finish(inqueue: Any, task_handler: Any, _size: int) -> None:
        # The thread that sends tasks may be waiting for room.
        while task_handler.is_alive() and inqueue._reader.poll():
            with contextlib.suppress(LostMessage, NotTaken):
                inqueue._reader.take(False)
            time.sleep(0)
