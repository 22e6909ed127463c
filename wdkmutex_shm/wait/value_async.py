"""Waiting for a value in a task of an event loop, as `value.py` does in a thread.

A task looks at the committed T and then sleeps in its loop. For all tasks of the process that wait for commits of one
mutex there is one thread, which sleeps in the kernel and wakes those that do not know the present commit. It ends when
none has waited for a while. No lock is taken and nothing blocks, so the IRQL of the loop does not matter. Who wants the
lock as well waits for it as for ``lock_async()``, once the value is there.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

from ..base.forks import in_child, settle
from ..core._core import ON_COMMIT, WAIT_VALUE, Wait, at_once, commits, holds, seconds_of, sleep_until_told, watch
from ..errors import AlreadyOwned, DriverMutexError, LockTimeout, MutexDestroyed
from . import event_loops
from .deadline import LONGEST_SLEEP
from .task_queue import contend
from .value import finish_for_the_dead, newest, no_value

if TYPE_CHECKING:
    from types import TracebackType

    from ..core._core import Guard, LockRequest, Mutex

__all__ = ["LockWhen", "next_change", "wait_for"]

T = TypeVar("T")

_SHOWN_AFTER = 0.05
"""Seconds of waiting after which a task is to be seen by others."""

_LINGER = 1.0
"""Seconds that a thread for whom nobody waits stays, for the next who does."""

_GIVEN_UP = 3 * LONGEST_SLEEP
"""Seconds after which a task that sleeps has woken by itself, if its loop runs."""

# Held for a few operations on a dict, never while anything is waited for. A finalizer may come back into it.
_lock = threading.RLock()
_posts: dict[Any, _Post] = {}


class _Post(threading.Thread):
    """Sleeps for the tasks of this process that wait for a commit of one mutex.

    Attributes:
        known: the tasks that sleep, the commit word that each of them knows, and when it went to sleep.
        wanted: set when somebody waits.
    """

    def __init__(self, mutex: Mutex[Any]) -> None:
        super().__init__(name="wdkmutex-values", daemon=True)
        self.known: dict[event_loops.Waiter, tuple[int, float]] = {}
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
                sleep_until_told(self._mutex, ticket, LONGEST_SLEEP)
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
        # Who did not wake by itself has a loop that does not run. If it ever does again, it looks; if not, nothing of
        # the task is to be kept for it, nor this thread.
        late = time.monotonic() - _GIVEN_UP
        with _lock:
            stale = [waiter for waiter, (known, since) in self.known.items() if known != commit or since < late]
            for waiter in stale:
                del self.known[waiter]
        for waiter in stale:
            waiter.wake()


@in_child
def _forget_parent() -> None:
    """In a forked child: its only thread waits for nothing, and there are no others."""
    global _lock
    _lock = threading.RLock()
    _posts.clear()


def _enlist(mutex: Mutex[Any], waiter: event_loops.Waiter, known: int) -> None:
    """Have a task woken once there is another commit than the one that it knows."""
    settle()
    with _lock:
        post = _posts.get(mutex)
        if post is None:
            post = _Post(mutex)
            post.start()
            _posts[mutex] = post
        post.known[waiter] = known, time.monotonic()
        post.wanted.set()


def _dismiss(mutex: Mutex[Any], waiter: event_loops.Waiter) -> None:
    with _lock:
        post = _posts.get(mutex)
        if post is not None:
            post.known.pop(waiter, None)


async def _sleep(mutex: Mutex[Any], waiter: event_loops.Waiter, known: int, wait: Wait) -> None:
    """Sleep until there is another commit, the timeout is over, or for no reason; seen by others after a while."""
    shown = wait.waited >= _SHOWN_AFTER
    if shown:
        wait.show((mutex,))
    waiter.asked = False
    _enlist(mutex, waiter, known)
    try:
        if commits(mutex) == known:
            await waiter.wait(waiter.now() + (LONGEST_SLEEP if shown else _SHOWN_AFTER))
    finally:
        _dismiss(mutex, waiter)


async def _await(
    mutex: Mutex[T], predicate: Callable[[T], object], waiter: event_loops.Waiter, timeout: float | None, operation: str
) -> T:
    """Wait until the predicate holds for the committed T, and return that. Takes no lock."""
    wait = Wait(WAIT_VALUE)
    try:
        while True:
            known = commits(mutex)
            value = mutex.peek()
            if predicate(value):
                return value
            if waiter.passed():
                raise no_value(mutex, timeout, operation)
            await _sleep(mutex, waiter, known, wait)
    finally:
        wait.end()


async def wait_for(mutex: Mutex[T], predicate: Callable[[T], object], timeout: float | None) -> T:
    """See :meth:`wdkmutex_shm.KMutex.wait_for_async`."""
    return await _await(mutex, predicate, event_loops.waiter(timeout), timeout, "wait_for_async")


async def next_change(mutex: Mutex[T], seen: int | None, timeout: float | None) -> tuple[int, T] | None:
    """Return the first commit word other than ``seen``, and its T; None when the timeout is over."""
    waiter, wait = event_loops.waiter(timeout), Wait(WAIT_VALUE)
    try:
        while True:
            known = commits(mutex)
            if known != seen:
                return newest(mutex)
            if waiter.passed():
                return None
            await _sleep(mutex, waiter, known, wait)
    finally:
        wait.end()


@final
class LockWhen(Generic[T]):
    """Returned by ``lock_when_async()``. Use it once, as ``async with ... as guard:`` or ``guard = await ...``.

    :meth:`wdkmutex_shm.KMutex.lock_when_async` lists the errors that awaiting it raises.
    """

    __slots__ = ("_guard", "_mutex", "_predicate", "_request", "_timeout")

    def __init__(
        self,
        request: LockRequest[T],
        mutex: Mutex[T],
        predicate: Callable[[T], object],
        timeout: float | None,
    ) -> None:
        self._request = request
        self._mutex = mutex
        self._predicate = predicate
        self._timeout = timeout
        self._guard: Guard[T] | None = None

    def __await__(self) -> Generator[Any, None, Guard[T]]:
        return self._locked().__await__()

    async def __aenter__(self) -> Guard[T]:
        """Wait for the value and the lock, and give the guard."""
        self._guard = await self._locked()
        return self._guard

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """As leaving ``async with mutex.lock_async()``."""
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.__exit__(kind, error, traceback)

    def hand_over(self, guard: Guard[T]) -> None:
        """Nothing: a guard that was waited for is not the caller's before the predicate was asked again."""

    async def _locked(self) -> Guard[T]:
        task = self._request.begin()
        mutex, waiter = self._mutex, event_loops.waiter(self._timeout)
        seconds = seconds_of(self._timeout)
        deadline = None if seconds is None else waiter.now() + seconds
        if holds(mutex, task):
            raise AlreadyOwned(
                f"lock_when_async: this task holds mutex {mutex.name!r}, so no other thread can change T; "
                "look at guard.value",
                name=mutex.name,
            )
        while True:
            await _await(mutex, self._predicate, waiter, self._timeout, "lock_when_async")
            guard = at_once(mutex, task)
            if guard is None:
                left = None if deadline is None else max(0.0, deadline - waiter.now())
                guard = await self._in_line(task, left)
            try:
                known = commits(mutex)
                if self._predicate(mutex._committed()):
                    return guard
            finally:
                # Without a return this releases the lock, and commits nothing: nothing was set. Not by leaving it: that
                # is for its own task, and another one may await this on its behalf.
                del guard
            # It does not hold any more. Not at once again: some predicates think otherwise whenever there is a lock.
            if waiter.passed():
                raise no_value(mutex, self._timeout, "lock_when_async")
            waiter.asked = False
            wait = Wait(WAIT_VALUE)
            try:
                await (_sleep(mutex, waiter, known, wait) if commits(mutex) == known else waiter.wait(waiter.now()))
            finally:
                wait.end()

    async def _in_line(self, task: Any, timeout: float | None) -> Guard[T]:
        try:
            return await contend(self, self._mutex, task, timeout)
        except LockTimeout as error:
            raise LockTimeout(
                f"lock_when_async: the value was committed, but the lock was not acquired within {self._timeout} s "
                f"({error})",
                **{**error.facts, "timeout": self._timeout},
            ) from None

    def __repr__(self) -> str:
        return f"<LockWhen for {self._mutex!r}>"
