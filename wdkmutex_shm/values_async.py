"""Waiting for a value in a task of an event loop, as `values.py` does in a thread.

A task looks at the committed T and then sleeps in its loop. For all tasks of the process that wait for commits of one
mutex there is one thread, which sleeps in the kernel and wakes those that do not know the present commit. It ends when
none has waited for a while. No lock is taken and nothing blocks, so the IRQL of the loop does not matter.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from . import loops
from ._watch import ON_COMMIT, commits, sleep, watch
from .errors import DriverMutexError, LockTimeout, MutexDestroyed
from .values import LONGEST_SLEEP, finish_for_the_dead, newest

if TYPE_CHECKING:
    from ._mutex import Mutex

__all__ = ["next_change", "wait_for"]

T = TypeVar("T")

_LINGER = 1.0
"""Seconds that a thread for whom nobody waits stays, for the next who does."""

# Held for a few operations on a dict, never while anything is waited for. A finalizer may come back into it.
_lock = threading.RLock()
_posts: dict[Any, _Post] = {}


class _Post(threading.Thread):
    """Sleeps for the tasks of this process that wait for a commit of one mutex.

    Attributes:
        known: the tasks that sleep, and the commit word that each of them knows.
        wanted: set when somebody waits.
    """

    def __init__(self, mutex: Mutex[Any]) -> None:
        super().__init__(name="wdkmutex-values", daemon=True)
        self.known: dict[loops.Waiter, int] = {}
        self.wanted = threading.Event()
        self._mutex = mutex

    def run(self) -> None:
        while self._is_wanted():
            try:
                before = commits(self._mutex)
                ticket = watch(self._mutex, ON_COMMIT, before)
                now = commits(self._mutex)
            except MutexDestroyed:
                self._wake(None)  # they find that out for themselves, and come no more
                continue
            # Whoever enlists after this looks once more afterwards; what is committed then is told to `ticket`.
            self._wake(now)
            if now == before:
                sleep(self._mutex, ticket, LONGEST_SLEEP)
                with contextlib.suppress(DriverMutexError):  # who waits meets it as well
                    finish_for_the_dead(self._mutex)

    def _is_wanted(self) -> bool:
        """Wait until somebody waits; False, and out of the way, when nobody has for a while."""
        while not self.known:
            self.wanted.clear()
            if self.known or self.wanted.wait(_LINGER):
                continue
            with _lock:
                if not self.known:
                    if _posts.get(self._mutex) is self:
                        del _posts[self._mutex]
                    return False
        return True

    def _wake(self, commit: int | None) -> None:
        with _lock:
            stale = [waiter for waiter, known in self.known.items() if known != commit]
            for waiter in stale:
                del self.known[waiter]
        for waiter in stale:
            waiter.wake()


def _forget_parent() -> None:
    """In a forked child: its only thread waits for nothing, and there are no others."""
    global _lock
    _lock = threading.RLock()
    _posts.clear()


os.register_at_fork(after_in_child=_forget_parent)


def _enlist(mutex: Mutex[Any], waiter: loops.Waiter, known: int) -> None:
    """Have a task woken once there is another commit than the one that it knows."""
    with _lock:
        post = _posts.get(mutex)
        if post is None:
            post = _Post(mutex)
            post.start()
            _posts[mutex] = post
        post.known[waiter] = known
        post.wanted.set()


def _dismiss(mutex: Mutex[Any], waiter: loops.Waiter) -> None:
    with _lock:
        post = _posts.get(mutex)
        if post is not None:
            post.known.pop(waiter, None)


async def _sleep(mutex: Mutex[Any], waiter: loops.Waiter, known: int) -> None:
    """Sleep until there is another commit, the timeout is over, or for no reason."""
    waiter.asked = False
    _enlist(mutex, waiter, known)
    try:
        if commits(mutex) == known:
            await waiter.wait(waiter.now() + LONGEST_SLEEP)
    finally:
        _dismiss(mutex, waiter)


async def wait_for(mutex: Mutex[T], predicate: Callable[[T], object], timeout: float | None) -> T:
    """See :meth:`wdkmutex_shm.KMutex.wait_for_async`."""
    waiter = loops.waiter(timeout)
    while True:
        known = commits(mutex)
        value = mutex.peek()
        if predicate(value):
            return value
        if waiter.passed():
            raise LockTimeout(
                f"wait_for_async: within {timeout} s no value of mutex {mutex.name!r} was committed that the predicate "
                "holds for",
                name=mutex.name,
                timeout=timeout,
            )
        await _sleep(mutex, waiter, known)


async def next_change(mutex: Mutex[T], seen: int | None, timeout: float | None) -> tuple[int, T] | None:
    """Return the first commit word other than ``seen``, and its T; None when the timeout is over."""
    waiter = loops.waiter(timeout)
    while True:
        known = commits(mutex)
        if known != seen:
            return newest(mutex)
        if waiter.passed():
            return None
        await _sleep(mutex, waiter, known)
