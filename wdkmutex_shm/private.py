"""This process's own pool, for anonymous mutexes and boxes.

It is made at the first use, never shared over fork (a child makes its own), and removed when the process ends. A
process that is killed leaves it behind; whoever makes the next one, or the daemon, or ``wdkmutex-daemon sweep``,
removes it once nobody who could use it lives.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from . import _tenant, data, identity
from ._segment import Segment
from .names import INLINE_BYTES, private_prefix
from .pool import Pool, SlotRef
from .types import TypeTag

__all__ = ["allocate", "at_end", "close", "the_pool"]


class PrivatePool(Pool):
    """A pool that threads share, and that a garbage collection in the midst of an allocation may give slots back to."""

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix, first_slots=64, keep_open=True)
        self.pid = os.getpid()
        self.closed = False
        self._lock = threading.Lock()
        self._returned: list[tuple[Segment, int, int | None]] = []

    def _grow(self) -> None:
        # Mutexes that were consumed in other processes left their slots without telling anyone here.
        self._quarantine = [(segment, index) for segment in self.segments for index in _tenant.vacant(segment)[1]]
        self._reclaim()
        if self._free:
            return
        super()._grow()
        # Held by this process and all that share the descriptor or attach: a sweep needs it exclusively.
        fcntl.flock(self.segments[-1].descriptor, fcntl.LOCK_SH)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the allocator, and take back first what was freed while somebody else held it."""
        with self._lock:
            yield
            self._take_back()

    def _take_back(self) -> None:
        while self._returned:
            segment, index, generation = self._returned.pop()
            if generation is None:
                super().note_freed(segment, index)
            else:
                super().free_slot(segment, index, generation)

    def free_slot(self, segment: Segment, index: int, generation: int) -> bool:
        """Destroy what lives in a slot, and give it back. Called from finalizers, at any moment, so it never waits."""
        return self._give_back(segment, index, generation)

    def note_freed(self, segment: Segment, index: int) -> None:
        """Take back a slot whose tenancy its own holder ended."""
        self._give_back(segment, index, None)

    def _give_back(self, segment: Segment, index: int, generation: int | None) -> bool:
        if self.closed or self.pid != os.getpid():
            return False
        self._returned.append((segment, index, generation))
        if self._lock.acquire(blocking=False):
            try:
                self._take_back()
            finally:
                self._lock.release()
        return True


_pool: PrivatePool | None = None
_making = threading.Lock()


def _after_fork() -> None:
    global _making
    _making = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def the_pool() -> PrivatePool:
    """Return this process's private pool, made if there is none yet.

    Raises:
        PagedPoolAllocFailed: no room for it.
    """
    global _pool
    pool = _pool
    if pool is not None and pool.pid == os.getpid():
        return pool
    with _making:
        if _pool is not None and _pool.pid == os.getpid():
            return _pool
        from . import sweep

        sweep.dead_private_pools()
        pool = PrivatePool(private_prefix(*identity.me(), int.from_bytes(os.urandom(4), "little")))
        pool._grow()
        _pool = pool
        at_end()
        return pool


_registered = 0


def at_end() -> None:
    """See to it that this process removes the private pools that nobody uses after it."""
    global _registered
    if _registered == os.getpid():
        return
    _registered = os.getpid()
    atexit.register(close)
    if "multiprocessing.util" in sys.modules:
        # Children of multiprocessing leave through os._exit, which runs these and not atexit.
        sys.modules["multiprocessing.util"].Finalize(None, close, exitpriority=0)


def allocate(kind: int, tag: TypeTag, payload: bytes) -> tuple[PrivatePool, SlotRef]:
    """Make an anonymous mutex (or box) and return the pool and where in it.

    Raises:
        PagedPoolAllocFailed: no room; nothing is left behind.
    """
    pool = the_pool()
    if len(payload) <= INLINE_BYTES:
        with pool.locked():
            return pool, pool.allocate(b"", kind, tag, payload)
    ident = data.create(pool.prefix, payload)
    try:
        with pool.locked():
            return pool, pool.allocate(b"", kind, tag, b"", (ident, len(payload)))
    except BaseException:
        data.unlink(pool.prefix, ident)
        raise


def close() -> None:
    """Remove this process's private pool, unless others still use mutexes in it; then the last of them does."""
    from . import sweep

    global _pool
    pool, _pool = _pool, None
    if pool is not None:
        pool.closed = True
    sweep.leave_private_pools()
