"""Queue, JoinableQueue and SimpleQueue without a lock that a reader or a writer could die with.

Items go through a :class:`~wdkmutex_shm.mp.channel.Channel`, which takes and gives each of them whole. The feeder
thread, closing and joining are those of ``multiprocessing.queues.Queue``.

What a killed process loses: the items in its feeder thread's buffer, and the one that it had taken. Nothing else.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections import deque
from multiprocessing import context, queues, util
from multiprocessing.reduction import ForkingPickler
from queue import Empty, Full
from typing import Any

from ..base._os import times_forked
from .channel import Channel, End, NotTaken
from .counter import Counter
from .item_counts import ItemCounts, open_books
from .process_key import me
from .shared_state import deadline_of, must_not_block, waits

__all__ = ["JoinableQueue", "Queue", "SimpleQueue"]

_PUTTER = struct.Struct("=q")  # before each item of a Queue: the process that put it
_BATCH = 16  # items that a feeder thread sends before it writes that down, if more are waiting
_NO_LIMIT = 2**31 - 1  # as multiprocessing has it

# What is inherited is not in the stubs of the standard library, or more narrow there than it is.
# mypy: disable-error-code="override, misc, type-arg, attr-defined"


class _NoLock:
    """In the place of the locks that multiprocessing's queues have."""

    def acquire(self, _block: bool = True, _timeout: float | None = None) -> bool:
        return True

    def release(self) -> None:
        pass

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *_: object) -> None:
        pass


class _Sender:
    """Sends a feeder thread's items. It must not know the queue, which ends the thread when it is collected itself."""

    def __init__(self, writer: End, counts: ItemCounts | Counter, buffer: deque[Any]) -> None:
        self._writer = writer
        self._counts = counts
        self._buffer = buffer
        self._unnoted = 0
        self._is_sent = False

    def __call__(self, item: Any) -> None:
        self._writer.send_whole(_PUTTER.pack(me()), item)
        self._unnoted += 1
        if self._unnoted >= _BATCH or not self._buffer or self._buffer[0] is queues._sentinel:
            try:
                self._note()
            except BaseException:
                self._is_sent = True
                raise

    def _note(self) -> None:
        if self._unnoted:
            self._counts.sent(self._unnoted)
            self._unnoted = 0

    def release(self) -> None:
        """The feeder thread's call after an item failed: it could not be pickled or sent, or was sent and not noted."""
        if self._is_sent:
            self._is_sent = False  # it is noted with the next one
            return
        self._note()
        self._counts.release()


class Queue(queues.Queue):
    """A queue for any number of processes; see ``multiprocessing.Queue``.

    The place (of ``maxsize``) of an item that a killed process had put and not sent is free as soon as a place is
    wanted. That of an item which it had taken, but not yet written down as taken, is free once the queue has lain empty
    and unused for 0.05 s: who waits for room sees to that. Until then the queue takes one item less, never none.

    IRQL: what may have to wait (``get()``; ``put()`` with a ``maxsize``) up to APC, the rest up to DISPATCH.
    """

    _joinable = False

    def __init__(self, maxsize: int = 0, *, ctx: Any) -> None:
        channel = Channel()
        counts = open_books(None, None, max(0, maxsize), self._joinable, channel.reader)
        self._attach(False, channel.reader, channel.writer, counts, os.getpid())
        util.register_after_fork(self, queues.Queue._after_fork)

    def _attach(self, ignore_epipe: bool, reader: End, writer: End, counts: ItemCounts | Counter, opid: int) -> None:
        self._ignore_epipe = ignore_epipe
        self._reader, self._writer = reader, writer
        self._counts = counts
        self._rlock = self._wlock = _NoLock()
        self._maxsize = counts.most or _NO_LIMIT
        self._opid = opid
        self._reset()

    def _reset(self, after_fork: bool = False) -> None:
        super()._reset(after_fork)
        self._forked = times_forked()
        self._counts.taking.clear()  # those are other threads' of the process that forked
        self._kept: deque[tuple[bytes, list[bool]]] = deque()  # taken, but an exception kept get() from returning it
        self._send_bytes = self._sem = _Sender(self._writer, self._counts, self._buffer)

    def _settle(self) -> None:
        """Begin anew in a process that was forked by other means than multiprocessing, which has no feeder thread."""
        if self._forked != times_forked():
            self._reset(after_fork=True)

    def __getstate__(self) -> tuple[Any, ...]:
        context.assert_spawning(self)
        return self._ignore_epipe, self._reader, self._writer, self._counts.shared(), self._opid

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        ignore_epipe, reader, writer, (cell, line, most, joinable), opid = state
        self._attach(ignore_epipe, reader, writer, open_books(cell, line, most, joinable, reader), opid)

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an item into the buffer of this process's feeder thread.

        Args:
            timeout: seconds to wait for room; None for no limit. Without meaning if not ``block``.

        Raises:
            ValueError: the queue is closed. queue.Full: there was no room in time.
            IrqlTooHigh: it may have to wait, and the thread must not block.
        """
        self._settle()
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        had: list[bool] = []
        put: list[None] = []
        try:
            if not self._counts.reserve(block, timeout, had):
                raise Full
            with self._notempty:
                if self._thread is None:
                    self._start_thread()
                put.extend(map(self._buffer.append, (obj,)))  # one call, in which no signal handler runs
                self._notempty.notify()
        except BaseException:
            if had and not put:
                self._counts.release()
            raise

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take an item.

        Args:
            timeout: seconds to wait for one; None for no limit. Without meaning if not ``block``.

        Raises:
            ValueError: the queue is closed. queue.Empty: there was none in time.
            IrqlTooHigh: it may have to wait, and the thread must not block.
            NotTaken, an OSError: a large item cannot be received for want of a file descriptor; it stays in the queue.
            KeyboardInterrupt, or what a signal handler raises. While it waits, nothing is lost by that, and while it
                writes down that it took an item, the next call returns the item. Where the item is handed from one
                function to the next, or is unpickled, it is lost, as in multiprocessing.
        """
        self._settle()
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        block = waits(block, timeout)
        if block:
            must_not_block("get")
        taking = self._counts.taking
        taking.append(None)
        self._counts.will_take()
        try:
            raw, noted = self._take(block, timeout)
        except NotTaken:
            taking.pop()
            raise
        except BaseException:
            self._counts.may_have_lost_one()
            taking.pop()
            raise
        if raw is None:
            taking.pop()
            raise Empty
        if not noted:
            try:
                self._counts.taken(_PUTTER.unpack_from(raw)[0], noted)
            except BaseException:
                self._kept.append((raw, noted))
                raise
        taking.pop()
        return ForkingPickler.loads(memoryview(raw)[_PUTTER.size :])

    def empty(self) -> bool:
        """Whether there is no item to take."""
        self._settle()
        return not self._kept and super().empty()

    def _take(self, block: bool, timeout: float | None) -> tuple[bytes | None, list[bool]]:
        while self._kept:
            with contextlib.suppress(IndexError):  # another thread was faster
                return self._kept.popleft()
        if block and timeout is None:
            return self._reader.take(True), []
        return self._take_until(deadline_of(timeout if block else 0)), []

    def _take_until(self, deadline: float | None) -> bytes | None:
        assert deadline is not None
        while True:
            raw: bytes | None = self._reader.take(False)
            if raw is not None:
                return raw
            seconds = deadline - time.monotonic()
            if seconds <= 0 or not self._reader.poll(seconds):
                return None

    def qsize(self) -> int:
        """How many items were put, anywhere, and not taken; without ``maxsize``, also what died with a process."""
        return self._counts.count()

    def full(self) -> bool:
        """Whether there is no room for another item."""
        return self._counts.full()


class JoinableQueue(Queue, queues.JoinableQueue):
    """A queue that can be joined; see ``multiprocessing.JoinableQueue``.

    ``join()`` does not wait for what died with a process: items that it had put and that were not sent when it was
    killed, and those that it had taken when it ended, however it did, without calling ``task_done()``. Nobody can call
    that for them afterwards.
    """

    _joinable = True

    def task_done(self) -> None:
        """An item that was taken is done.

        Raises:
            ValueError: called more often than there were items.
        """
        self._books().done()

    def join(self) -> None:
        """Wait until all items are done.

        Raises:
            IrqlTooHigh: the thread must not block.
        """
        self._books().wait_until_done()

    def close(self) -> None:
        """This process puts and takes no more. It may join the queue nevertheless."""
        if not self._closed:
            self._books().keep_looking(self._writer)
        super().close()

    def _books(self) -> ItemCounts:
        assert isinstance(self._counts, ItemCounts)
        return self._counts


class SimpleQueue(queues.SimpleQueue):
    """A queue that is a channel and nothing else; see ``multiprocessing.SimpleQueue``."""

    def __init__(self, *, ctx: Any) -> None:
        channel = Channel()
        self._attach(channel.reader, channel.writer)

    def _attach(self, reader: End, writer: End) -> None:
        self._reader, self._writer = reader, writer
        self._rlock = self._wlock = _NoLock()
        self._poll = reader.poll

    def __getstate__(self) -> tuple[Any, ...]:
        context.assert_spawning(self)
        return self._reader, self._writer

    def __setstate__(self, state: tuple[End, End]) -> None:
        self._attach(*state)

    def get(self) -> Any:
        """Take an item; wait for one. Raises IrqlTooHigh where the thread must not block."""
        must_not_block("get")
        raw = self._reader.take(True)
        assert raw is not None
        return ForkingPickler.loads(raw)

    def put(self, obj: Any) -> None:
        """Put an item; wait for room in the channel."""
        self._writer.send_whole(b"", ForkingPickler.dumps(obj))
