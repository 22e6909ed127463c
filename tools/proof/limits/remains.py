"""What there was before the room went: it must stand while there is none, and work on when there is some again."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from wdkmutex_shm import FastMutex, Grt, KMutex
from wdkmutex_shm.errors import GrtError, PagedPoolAllocFailed

_OLD, _LARGE = b"old", b"old" * 3000


def refused(work: Callable[[], Any], *codes: int) -> None:
    """Work must fail for want of room, with one of these reasons of the operating system."""
    try:
        work()
    except PagedPoolAllocFailed as error:
        assert error.errno in codes, f"PagedPoolAllocFailed with errno {error.errno}: {error}"
        return
    raise AssertionError("it found room where there was none")


def refused_by_grt(*works: Callable[[], Any]) -> int:
    """Each must fail for want of room, or because the daemon cannot be reached without. Returns how many there are."""
    for work in works:
        try:
            work()
        except (PagedPoolAllocFailed, GrtError):
            continue
        raise AssertionError("it found what there was none of")
    return len(works)


def register_until(refusal: type[Exception] | tuple[type[Exception], ...], most: int, *codes: int) -> int:
    """Register names until that fails, which it must before there are so many. Returns how many there are."""
    for count in range(most):
        try:
            Grt.register_fast_mutex_checked(f"n{count}", count)
        except refusal as error:
            assert not codes or getattr(error, "errno", None) in codes, error
            return count
    raise AssertionError(f"there was room for {most} mutexes where there was none")


def set_by_with(mutex: Any, value: Any) -> None:
    """A change that leaves its ``with``."""
    with mutex.lock(timeout=5) as guard:
        guard.value = value


def value_of(mutex: Any) -> Any:
    """T under the lock."""
    return mutex.lock(timeout=5).value


@contextlib.contextmanager
def limited(what: int, soft: int, pid: int = 0) -> Iterator[None]:
    """A resource limit of a process, this one or another."""
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (soft, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, what, before)


class Remains:
    """An anonymous mutex, a registered one, and one whose T is in a data segment.

    Args:
        name: of the instance, which is entered.
    """

    def __init__(self, name: str) -> None:
        Grt.init(name)
        registered = Grt.register_fast_mutex("registered", _OLD)
        Grt.get_fast_mutex("registered")
        Grt.names()
        anonymous, large = KMutex(_OLD), FastMutex(_LARGE)
        large.replace(_LARGE)
        self.mutexes: list[tuple[Any, bytes]] = [(anonymous, _OLD), (registered, _OLD), (large, _LARGE)]

    def stand(self) -> None:
        """Each has its T, and nobody holds it."""
        for mutex, old in self.mutexes:
            assert mutex.peek() == old
            assert value_of(mutex) == old
            assert mutex.owner is None

    def do_not_grow(self, size: int, *codes: int) -> int:
        """Each refuses to grow and keeps its T. Returns how often that was tried."""
        value = b"x" * size
        for mutex, old in self.mutexes:
            refused(partial(mutex.replace, value, timeout=5), *codes)
            refused(partial(set_by_with, mutex, value), *codes)
            assert mutex.peek() == old
            assert mutex.owner is None
        return 2 * len(self.mutexes)

    def no_more(self, *codes: int) -> int:
        """Nothing new is made: neither a segment of the pool, nor T, nor a registered one."""
        refused(lambda: KMutex(b"x" * 5000), *codes)
        refused(lambda: [FastMutex(number) for number in range(100_000)], *codes)
        refused(lambda: Grt.register_kmutex("new", b"x" * 5000), *codes)
        return 3

    def work(self) -> None:
        """There is room again: everything works again."""
        self.stand()
        for mutex, _ in self.mutexes:
            mutex.replace(b"new" * 5000, timeout=5)
            assert mutex.peek() == b"new" * 5000
        assert KMutex(b"x" * 5000).peek() == b"x" * 5000
        Grt.register_kmutex("again", b"x" * 5000)
        assert Grt.get_kmutex("again", bytes).peek() == b"x" * 5000
