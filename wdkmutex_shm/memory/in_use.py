"""Who uses a pool, told by locks on its segments that the kernel gives back when a process ends.

Everyone who has a pool segment mapped has a shared flock(2) on it: the mapping keeps it, even where the descriptor was
closed, and a forked child shares it. So whoever gets the exclusive one is alone with the segment. That holds across pid
namespaces, where a pid proves nothing. Beside it the one who allocates in an instance's pool has a claim, of the other
kind of lock that Linux has (F_OFD_SETLK in fcntl(2)), which does not meet the first.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time

from ..errors import SegmentRefused

__all__ = ["alone", "claim", "is_claimed", "is_left", "share"]

_PATIENCE = 10.0
_PAUSE = 0.002
_YOUNG = 60.0
"""Seconds between making a file and locking it that a process may take, stopped or short of time."""
_FLOCK = struct.Struct("@hhqqi0q")  # struct flock: l_type, l_whence, l_start, l_len, l_pid


def share(fd: int, name: str) -> None:
    """Note that this process uses the segment ``name``. Waits while somebody proves, or settles, that nobody does.

    Raises:
        SegmentRefused: that takes longer than ten seconds.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise SegmentRefused(
                    f"shared memory segment {name} has been locked by another process for {_PATIENCE:g} s; "
                    f"find it with: fuser /dev/shm{name}",
                    name=name,
                ) from None
            time.sleep(_PAUSE)


def alone(fd: int) -> bool:
    """Take the exclusive lock. Tells whether it was had, and so nobody uses the segment until ``fd`` is closed."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_left(fd: int) -> bool:
    """Tell whether a file that its maker locks for life has been left: nobody has it locked, and it was not just made.

    For what a process in another pid namespace has made. The exclusive lock is kept until ``fd`` is closed.
    """
    return alone(fd) and time.time() - os.fstat(fd).st_mtime > _YOUNG


def claim(fd: int) -> bool:
    """Claim the right to allocate in the pool whose first segment is open at ``fd``, until that is closed."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, 0, 1, 0))
    except BlockingIOError:
        return False
    return True


def is_claimed(fd: int) -> bool:
    """Tell whether another has the claim."""
    found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, 0, 1, 0))
    kind: int = _FLOCK.unpack(found)[0]
    return kind != fcntl.F_UNLCK
