"""The right to write an instance's pool.

The daemon's lock file lies in the runtime folder, and a user can have two of those (a login session's and a cron
job's) but only one ``/dev/shm``. So the daemon also claims the pool itself, by its first segment.
"""

from __future__ import annotations

import logging
import os

from wdkmutex_shm.base.names import pool_segment
from wdkmutex_shm.core._core import Segment
from wdkmutex_shm.errors import DaemonError, OtherPidNamespace
from wdkmutex_shm.memory import in_use, shm
from wdkmutex_shm.pool import removed, takeover
from wdkmutex_shm.pool.pool import Pool

__all__ = ["PoolLock", "ServedAlreadyError"]


log = logging.getLogger(__name__)


class ServedAlreadyError(DaemonError):
    """Another daemon serves the instance."""


class PoolLock:
    """Context manager: the pool at ``prefix``, recovered or made, which no other process writes meanwhile.

    Raises:
        ServedAlreadyError: another daemon writes it.
        OtherPidNamespace: processes of another container use it.
        PagedPoolAllocFailed, LayoutMismatch, SegmentRefused: the pool cannot be had.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._fd = -1

    def __enter__(self) -> Pool:
        try:
            self._lock()  # before anything in it is touched
            if takeover.take_over(self._prefix):
                log.warning("took over the pool %s from a pid namespace without living processes", self._prefix)
            self._end_removed()
            try:
                pool = Pool.open(self._prefix)
            except FileExistsError:
                raise self._served() from None
            self._lock()  # recovery may have made the segment anew
            if pool.segments[0].nonce != Segment.attach(pool_segment(self._prefix, 0), self._prefix).nonce:
                raise self._served()
            return pool
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _end_removed(self) -> None:
        ended, missed = removed.end_removed(self._prefix)
        if ended:
            log.warning("ended %d mutexes of a pool whose files were removed: %s", ended, self._prefix)
        for found in missed:
            log.warning(
                "process %d has the removed segment %s mapped but has closed its descriptor: if it was removed by "
                "hand or by a cleaner, and not by a destroy, that process is not told; end it",
                found.pid,
                found.name,
            )

    def _lock(self) -> None:
        """Lock the first segment that there is now, if there is one."""
        try:
            fd = shm.open_segment(pool_segment(self._prefix, 0))
        except FileNotFoundError:
            return
        if self._fd >= 0 and os.path.sameopenfile(fd, self._fd):
            fd.close()
            return
        if not in_use.claim(fd):
            fd.close()
            raise self._served()
        self.__exit__()
        self._fd = fd.detach()

    def _served(self) -> DaemonError | OtherPidNamespace:
        elsewhere = takeover.elsewhere(self._prefix)
        if elsewhere is not None:
            return elsewhere
        server = Pool.server_of(self._prefix)
        who = f", pid {server[0]} at {server[1]}" if server is not None else ""
        return ServedAlreadyError(
            f"another process allocates in the pool {self._prefix}{who}; stop that daemon first, or use another "
            "instance",
            name=self._prefix,
        )
