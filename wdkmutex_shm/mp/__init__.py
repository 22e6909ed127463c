"""multiprocessing, made crash-proof.

:func:`get_context` is a drop-in for ``multiprocessing.get_context``. What it returns has everything that a context of
multiprocessing has; its locks, queues and pools go on when a process that uses them is killed at any instant:

* what a dead process held is released: ``Lock``, ``RLock``, ``Semaphore``, ``BoundedSemaphore``, the lock of a
  ``Condition``, of a ``Value`` and of an ``Array``;
* ``Condition``, ``Event`` and ``Barrier`` lose no wake-up to a waiter that died;
* ``Queue``, ``JoinableQueue`` and ``SimpleQueue`` have no lock at all that a reader or writer could die with;
* a ``Pool`` replaces workers that were killed, idle or busy; the task that died with one raises :class:`WorkerDied`.

    >>> from wdkmutex_shm import mp
    >>> context = mp.get_context("fork")
    >>> with context.Lock():
    ...     pass
"""

from __future__ import annotations

from ..errors import WorkerDied
from .context import ForkContext, ForkServerContext, SpawnContext, get_context

__all__ = ["ForkContext", "ForkServerContext", "SpawnContext", "WorkerDied", "get_context"]
