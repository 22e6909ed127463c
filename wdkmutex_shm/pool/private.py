"""This process's own pool, for anonymous mutexes and boxes.

It is made at the first use, never shared over fork (a child makes its own), and removed when the process ends. A
process that is killed leaves it behind; whoever makes the next one, or the daemon, or ``wdkmutex-daemon sweep``,
removes it once nobody who could use it lives.

All threads use it, and so do signal handlers and finalizers, which may run in the midst of anything here. So it has
no lock that one of them could find taken: each step is a single operation on a list or a dict.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import sys
from typing import Any

from ..base import identity
from ..base.forks import in_child, settle
from ..base.names import INLINE_BYTES, data_segment, private_prefix
from ..core import _core
from ..core._core import Segment
from ..core.types import Codec
from ..memory import data_segments, shm
from .pool import Pool

__all__ = ["PrivatePool", "at_end", "close", "house", "segments_now", "the_pool"]


class PrivatePool(Pool):
    """The pool of one process."""

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix, first_slots=64)
        self.pid = os.getpid()
        self.closed = False
        self._numbers = itertools.count()

    def _next_number(self) -> int:
        # Two threads, or a thread and its signal handler, may grow the pool at once: each makes a segment.
        return next(self._numbers)

    def _grow(self) -> None:
        # Mutexes that were consumed in other processes left their slots without telling anyone here.
        listed = {*self._free, *self._quarantine}
        # And a signal handler that raised may have kept slots from being listed.
        for segment in self.segments:
            fresh, vacated = _core.vacant(segment)
            self._free.extend(place for index in fresh if (place := (segment, index)) not in listed)
            self._quarantine.extend(place for index in vacated if (place := (segment, index)) not in listed)
        self.reclaim()
        if self._free:
            return
        super()._grow()

    def free_slot(self, segment: Segment, index: int, generation: int) -> bool:
        """Destroy what lives in a slot, and give it back. In a forked child, and at the very end, nothing happens."""
        if self.closed or self.pid != os.getpid():
            return False
        return super().free_slot(segment, index, generation)

    def note_freed(self, segment: Segment, index: int) -> None:
        """Take back a slot whose tenancy its own holder ended."""
        if not self.closed and self.pid == os.getpid():
            super().note_freed(segment, index)


_pools: dict[tuple[int, int], PrivatePool] = {}


def the_pool() -> PrivatePool:
    """Return this process's private pool; it has no segment yet when it is new.

    A process that changes its user begins another: segments of the old one's name are not its own to make. So does one
    whose pool's files were removed (by a cleaner, say): no other process would find what is made there.
    """
    settle()
    me = os.getpid(), os.geteuid()
    pool = _pools.get(me)
    if pool is not None and pool.segments and not pool.segments[0].has_name():
        if _pools.get(me) is pool:
            _pools.pop(me, None)
            identity.renew_image()
        pool = None
    if pool is None:
        from . import sweep

        sweep.dead_private_pools_now_and_then()
        pool = _pools.setdefault(
            me, PrivatePool(private_prefix(*identity.me(), identity.pid_namespace(), identity.image()))
        )
        at_end()
    return pool


def segments_now() -> list[Segment]:
    """Return the segments of this process's private pool; none if it has made no anonymous mutex yet."""
    settle()
    pool = _pools.get((os.getpid(), os.geteuid()))
    return [] if pool is None else list(pool.segments)


_registered: set[int] = set()
in_child(_pools.clear)
in_child(_registered.clear)


def at_end() -> None:
    """See to it that this process removes the private pools that nobody uses after it."""
    settle()
    pid = os.getpid()
    if pid in _registered:
        return
    _registered.add(pid)
    atexit.register(close)
    if "multiprocessing.util" in sys.modules:
        # Children of multiprocessing leave through os._exit, which runs these and not atexit.
        sys.modules["multiprocessing.util"].Finalize(None, close, exitpriority=0)


def house(handle: Any, kind: int, codec: Codec, payload: bytes) -> PrivatePool:
    """Make an anonymous mutex (or box) and bind the new handle ``handle`` to it, which then owns it. Returns the pool.

    A signal handler may raise anywhere in here: then nothing is left behind, or it goes with the handle.

    Raises:
        PagedPoolAllocFailed: no room; nothing is left behind.
    """
    pool = the_pool()
    maker = os.getpid()
    length = len(payload)
    ident = data_segments.new_id() if length > INLINE_BYTES else 0
    try:
        if ident:
            pool.begin()  # so that a lock of ours tells those who see no pid of ours that we live
            data_segments.create(pool.prefix, payload, ident=ident)
            payload = b""
        if not pool._free:
            pool.reclaim()
        while not _core.house_handle(
            pool, handle, kind, codec, payload, ident, length if ident else 0, pool.next_serial()
        ):
            pool._grow()
    except BaseException:
        if ident and not handle.segment:  # else it is the slot's, and the handle gives both back
            shm.unmake(data_segment(pool.prefix, ident), maker)
        raise
    return pool


def close() -> None:
    """Remove this process's private pool, unless others still use mutexes in it; then the last of them does."""
    from . import sweep

    for me in list(_pools):
        pool = _pools.pop(me, None)
        if pool is not None:  # pragma: no branch - None only if a signal handler closes it in this very line
            pool.closed = True
    with contextlib.suppress(OSError):  # out of descriptors, say; the next process that makes a pool removes this one
        sweep.leave_private_pools()
