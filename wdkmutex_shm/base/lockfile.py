"""A lock file that tells who is alive, and that can be removed while it is held.

Taken with portalocker (flock(2) on Linux): the kernel releases it when its holder ends, however that happens. A file
that was removed by its last holder is noticed (its inode is no longer the path's) and not mistaken for a lock.
"""

from __future__ import annotations

import os
import time

from ._os import File, above

__all__ = ["LockFile"]

_CHECK_EVERY = 0.02


class LockFile:
    """An exclusive lock on a path, not recursive, held from :meth:`acquire` to :meth:`release` or the process's end.

    A child made by fork shares the lock with its parent until both have closed it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file: File | None = None

    def try_acquire(self) -> bool:
        """Take the lock if it is free. Tells whether it was.

        Raises:
            OSError: the file cannot be opened.
        """
        import portalocker  # here: it takes long to import, and only those who start a daemon need it

        while True:
            fd = above(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            try:
                portalocker.lock(fd, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
                if self._is_current(fd):
                    self._file, fd = File(fd), -1
                    return True
            except portalocker.AlreadyLocked:
                return False
            finally:
                if fd >= 0:
                    os.close(fd)

    def acquire(self, timeout: float) -> bool:
        """Take the lock within ``timeout`` seconds. Tells whether it was had."""
        deadline = time.monotonic() + timeout
        while not self.try_acquire():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_CHECK_EVERY)
        return True

    def release(self, *, remove: bool = False) -> None:
        """Give the lock back; with ``remove`` the file goes first, while nobody else can have it locked."""
        file, self._file = self._file, None
        if file is None or not file.is_here():  # closed by others in this process, and so the lock is given back
            return
        try:
            if remove and self._is_current(file.fd):
                os.unlink(self.path)
        finally:
            file.close()

    def _is_current(self, fd: int) -> bool:
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        mine = os.fstat(fd)
        return (found.st_ino, found.st_dev) == (mine.st_ino, mine.st_dev)
