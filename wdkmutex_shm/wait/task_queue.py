"""Tasks that wait for a lock: in line within the process, and told of releases by a thread that sleeps for them.

Who asks first is first in line. Only the first looks at the lock, and does so when it joins, when it becomes the first,
when it has waited 1 ms, and whenever it is woken:

===============================  =======================================================================================
the lock is held by              who wakes the first in line
===============================  =======================================================================================
a task of this process           the release of its guard (``poke``), without a system call or another thread in between
                                 where the tasks are of one loop
anybody else                     a helper thread, which sleeps until told of the release (`watch.pxi`)
who has died                     the helper, which looks every 50 ms: nobody tells of a death
nobody: the mutex is destroyed   the helper wakes the whole line
===============================  =======================================================================================

After 1 ms the first in line counts among the starving waiters of all processes, and takes the lock even if others
starve; until then it lets those go first. So processes take turns, however many tasks each has.

Whoever leaves the line, with the lock or without, wakes the next. A waiter whose loop does not run any more, so that it
does not look, is sent behind those of other loops. Only the helper can find that: so there is one wherever a task
waits, also while the lock goes from task to task of one loop.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from ..base.forks import in_child, settle
from ..core._core import (
    ON_RELEASE,
    WAIT_TASK,
    Wait,
    anyone_starves,
    attempt_for_task,
    begin_starving,
    end_starving,
    expire,
    held_by_task,
    is_free,
    note_timeout,
    sleep_until_told,
    ticket,
    waiting,
    watch,
)
from ..errors import LockTimeout, MutexDestroyed
from . import event_loops

if TYPE_CHECKING:
    from weakref import ref

    from ..core._core import Guard, Handle

__all__ = ["Queue", "contend"]

_STARVE = 0.001
"""Seconds until the first in line counts as starving."""

_LOOK = 0.05
"""Seconds between two looks of a helper that is told of nothing."""

_SHOWN_AFTER = 0.001
"""Seconds of waiting after which others see a task; one that comes later, at the next look of the helper."""

_MOST_SHOWN = 32
"""How many tasks of a process are to be seen to wait for one mutex: the board has not room for all of a thousand."""

_LINGER = 1.0
"""Seconds that a helper without work waits for some before it ends."""

# Held for a few operations on a line at a time, never while anything is waited for. A finalizer may come back into it.
_lock = threading.RLock()


class Request(Protocol):
    """What a task asked for a lock with: LockRequest, LockWhen."""

    def hand_over(self, guard: Any) -> None:
        """Called with the guard, before anything can interrupt: from now on it is the request's to release."""


class Queue:
    """The tasks of this process that wait for one mutex.

    Attributes:
        waiters: in the order in which they came.
        shown: of each of them, what others see of its wait once the helper has written that down.
    """

    __slots__ = ("_expired", "_first", "_handle", "_helped", "_since", "_starving", "shown", "waiters")

    def __init__(self, handle: Handle) -> None:
        # Nobody's values: the first and any other is found, and goes, as quickly among thousands.
        self.waiters: OrderedDict[event_loops.Waiter, None] = OrderedDict()
        self.shown: dict[event_loops.Waiter, Wait] = {}
        self._handle = handle
        self._helped = False
        self._starving = False
        self._first: event_loops.Waiter | None = None
        self._since = 0.0
        self._expired: tuple[float, str, dict[str, Any]] | None = None

    def first(self) -> event_loops.Waiter | None:
        """Who is the first in line, None in an empty one."""
        return next(iter(self.waiters), None)

    def poke(self) -> None:
        """Let the first in line look: the lock may be free. In any thread; takes no lock while loops are open."""
        while True:
            try:
                first = self.first()
            except RuntimeError:  # another thread changed the line meanwhile
                continue
            if first is None or first.wake():
                return
            self._remove(first)

    def look(self, waiter: event_loops.Waiter, task: ref[Any]) -> tuple[Guard[Any] | None, float | None]:
        """Try to get the lock for a waiter that may be the first.

        Returns:
            The guard or None, and when to look again without having been woken, on the loop's clock.
        """
        waiter.asked = False
        with _lock:
            first = self.first()
        if first is not waiter:
            if self._handle.destroyed:
                attempt_for_task(self._handle, task)  # tells it
            self._need_helper()
            return None, None
        now = waiter.now()
        if self._first is not waiter:
            self._first, self._since = waiter, now
        guard = attempt_for_task(self._handle, task, self._starving)
        if guard is not None:
            self._since = now
            return guard, None
        if held_by_task(self._handle, here=True):
            self._since = now
            self._need_helper()
            return None, None
        if now - self._since >= _STARVE:
            self._starve(waiter)
        watch(self._handle, ON_RELEASE)
        guard = attempt_for_task(self._handle, task, self._starving)
        if guard is None:
            self._need_helper()
        return guard, None if self._starving else self._since + _STARVE

    def _starve(self, waiter: event_loops.Waiter) -> None:
        with _lock:
            # Newcomers set the count to zero when those who starve do not come in time.
            if not self._starving or not anyone_starves(self._handle):
                self._starving = True
                begin_starving(self._handle)

    def leave(self, waiter: event_loops.Waiter) -> None:
        """Take a waiter out of the line, whether it got the lock or not, and let the next one look."""
        self._remove(waiter)
        self.poke()

    def expire(self, timeout: float | None) -> None:
        """Raise LockTimeout. Of many tasks whose time is up together, not each finds out anew who holds the lock."""
        told = self._expired if len(self.waiters) >= _MOST_SHOWN else None
        if told is not None and monotonic() - told[0] < _LOOK and told[2]["timeout"] == timeout:
            note_timeout(self._handle)
            raise LockTimeout(told[1], **told[2])
        try:
            expire(self._handle, timeout)
        except LockTimeout as error:
            self._expired = monotonic(), str(error), error.facts
            raise

    def _remove(self, waiter: event_loops.Waiter) -> None:
        with _lock:
            self.waiters.pop(waiter, None)
            wait = self.shown.pop(waiter, None)
            if wait is not None:
                wait.end()
            if waiter is self._first or not self.waiters:
                self._calm()
            self._forget()

    def _calm(self) -> None:
        """Whoever is the first in line from now on has not waited as such."""
        self._first = None
        if self._starving:
            self._starving = False
            end_starving(self._handle)

    def _forget(self) -> bool:
        """Forget a line that nobody waits in, and no helper looks after."""
        if self.waiters or self._helped:
            return False
        if waiting.get(self._handle) is self:
            del waiting[self._handle]
        return True

    def _need_helper(self) -> None:
        with _lock:
            if self._helped:
                return
            self._helped = True
            helper = _idle.pop() if _idle else None
        if helper is None:
            helper = _Helper()
            helper.start()
        helper.work.put(self)

    def watch_over(self) -> None:
        """Wake the first in line when the lock is released, its holder dies, or the mutex ends. For a helper thread."""
        stalled: tuple[event_loops.Waiter | None, float] = None, 0.0
        next_show = monotonic() + _SHOWN_AFTER
        while True:
            try:
                # The release of a task's guard pokes by itself. Who then finds that another process was faster asks to
                # be told of that one's release, which ends the sleep below as well.
                number = ticket(self._handle) if held_by_task(self._handle) else watch(self._handle, ON_RELEASE)
                free = is_free(self._handle)
            except MutexDestroyed:
                number, free = ticket(self._handle), True
                with _lock:
                    everybody = list(self.waiters)
                for waiter in everybody:
                    waiter.wake()
            if free:
                stalled = self._pass_over(*stalled)
                self.poke()
            with _lock:
                if not self.waiters:
                    self._helped = False
                    self._forget()
                    return
            if monotonic() >= next_show:
                for wait in list(self.shown.values())[:_MOST_SHOWN]:
                    wait.show((self._handle,))
                next_show = monotonic() + _LOOK
            sleep_until_told(self._handle, number, min(_LOOK, max(_SHOWN_AFTER, next_show - monotonic())))

    def _pass_over(self, waiter: event_loops.Waiter | None, since: float) -> tuple[event_loops.Waiter | None, float]:
        """Send the waiters of a loop to the end of the line if the first was woken a while ago and did not look."""
        with _lock:
            first = self.first()
            if first is None or not first.asked:
                return None, 0.0
            if first is not waiter:
                return first, monotonic()
            if monotonic() - since >= _LOOK:
                ordered = sorted(self.waiters, key=lambda one: one.loop is first.loop)
                if ordered[0] is not first:
                    self.waiters.clear()
                    self.waiters.update(dict.fromkeys(ordered))
                    self._calm()
            return first, since


class _Helper(threading.Thread):
    """A thread that looks after one line at a time, and ends when there has been none for a while."""

    def __init__(self) -> None:
        super().__init__(name="wdkmutex-waits", daemon=True)
        self.work: SimpleQueue[Queue] = SimpleQueue()

    def run(self) -> None:
        while True:
            try:
                queue = self.work.get(timeout=_LINGER)
            except Empty:
                with _lock:
                    if self in _idle:
                        _idle.remove(self)
                        return
                continue  # it was just chosen
            queue.watch_over()
            del queue
            with _lock:
                _idle.append(self)


_idle: list[_Helper] = []


@in_child
def _forget_parent() -> None:
    """In a forked child: its only thread waits for nothing, and there are no helpers."""
    global _lock
    _lock = threading.RLock()
    waiting.clear()
    _idle.clear()


async def contend(request: Request, handle: Handle, task: ref[Any], timeout: float | None) -> Guard[Any]:
    """Wait in line for the lock, for the task that asked.

    Raises:
        LockTimeout, AlreadyOwned, MutexDestroyed, and what cancels the running task.
    """
    settle()
    waiter = event_loops.waiter(timeout)
    try:
        with _lock:
            queue = waiting.get(handle)
            if queue is None:
                queue = waiting[handle] = Queue(handle)
            queue.shown[waiter] = Wait(WAIT_TASK)
            queue.waiters[waiter] = None
        while True:
            guard, again = queue.look(waiter, task)
            if guard is not None:
                request.hand_over(guard)
                return guard
            if waiter.passed():
                queue.leave(waiter)  # who is told how many wait does not count itself
                queue.expire(timeout)
            await waiter.wait(again)
    finally:
        # Looked up: a signal handler may have raised before there was one; a forked child has none of its parent's.
        queue = waiting.get(handle)
        if queue is not None:
            queue.leave(waiter)
