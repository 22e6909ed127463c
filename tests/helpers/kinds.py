"""KMutex, FastMutex and CriticalSection behind one face, so that one suite can run over all of them."""

from __future__ import annotations

import json
import os
from typing import Any

from wdkmutex_shm import CriticalSection, FastMutex, Grt, KMutex

KINDS = ("fast", "k", "section")


class Hold:
    """One acquisition: of a guard, or of a critical section."""

    def __init__(self, mutex: Any, guard: Any = None) -> None:
        self.mutex = mutex
        self.guard = guard

    @property
    def abandoned(self) -> bool:
        return bool(self.mutex.abandoned if self.guard is None else self.guard.abandoned)

    @property
    def abandoned_by(self) -> int | None:
        found: int | None = self.mutex.abandoned_by if self.guard is None else self.guard.abandoned_by
        return found

    def release(self) -> None:
        if self.guard is None:
            self.mutex.leave()
        else:
            self.guard.drop_safe()

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def acquire(mutex: Any, timeout: float | None = None) -> Hold:
    """Wait for the lock, at most so long (LockTimeout)."""
    if isinstance(mutex, CriticalSection):
        mutex.enter(timeout)
        return Hold(mutex)
    return Hold(mutex, mutex.lock(timeout))


def attempt(mutex: Any) -> Hold | None:
    """Take the lock if it is free, else return None."""
    if isinstance(mutex, CriticalSection):
        return Hold(mutex) if mutex.try_enter() else None
    guard = mutex.try_lock()
    return None if guard is None else Hold(mutex, guard)


def take(mutex: Any, timeout: float | None = None) -> tuple[bool, int | None]:
    """Take the lock and release it; return what it said of its last holder."""
    with acquire(mutex, timeout) as hold:
        return hold.abandoned, hold.abandoned_by


def is_to_be_had(mutex: Any) -> bool:
    """Whether the lock is free, or held by this thread if that may take it again."""
    hold = attempt(mutex)
    if hold is not None:
        hold.release()
    return hold is not None


def make(kind: str, name: str | None = None) -> Any:
    """A new mutex, anonymous or registered under ``name``."""
    if name is None:
        return CriticalSection() if kind == "section" else KMutex(0) if kind == "k" else FastMutex(0)
    if kind == "section":
        return Grt.register_critical_section(name)
    return Grt.register_kmutex(name, 0) if kind == "k" else Grt.register_fast_mutex(name, 0)


def destroy(mutex: Any) -> None:
    """End the life of a mutex while others may hold it or wait for it."""
    if mutex.name:
        Grt.unregister(mutex.name)
    else:
        assert mutex._vacate()


class Tally:
    """A number in a file, read and written in two steps: right only while a lock keeps others out between them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.write(0, 0)

    def read(self) -> tuple[int, int]:
        with open(self.path, "rb") as file:
            count, inside = json.loads(os.pread(file.fileno(), 100, 0))
        return count, inside

    def write(self, count: int, inside: int) -> None:
        with open(self.path, "r+b" if os.path.exists(self.path) else "wb") as file:
            os.pwrite(file.fileno(), json.dumps([count, inside]).ljust(60).encode(), 0)

    def step(self) -> bool:
        """Add one in a way that is easily torn. False when somebody else was seen inside."""
        count, inside = self.read()
        self.write(count, os.getpid())
        os.sched_yield()
        alone = inside == 0 and self.read() == (count, os.getpid())
        self.write(count + 1, 0)
        return alone
