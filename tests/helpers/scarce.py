"""Processes in which no descriptor is free, however many are open."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def no_descriptor(free: int = 0) -> Iterator[None]:
    """No descriptor can be had in this process, or only so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = highest_descriptor() + 2 + free
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(free):
            os.close(taken.pop())
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def highest_descriptor() -> int:
    """The highest descriptor that is open in this process."""
    return max(map(int, os.listdir("/proc/self/fd")))
