"""How many items of a queue are where, so that none of them is counted for ever after a process died with it.

The state: [tasks done early, what the dead may have left unnoted, since when nothing moved, then five numbers for each
process: the process, items that it put and that still wait in it ("reserved"), items of it that lie in the channel
("sent"), items that it took and has not finished ("in hand"), whether it takes items...].

An item is counted with the process that put it, until somebody takes it. So what a dead process had reserved is struck
off at once. Two short windows remain: a process that dies between taking an item and noting that (the item is counted,
and lies nowhere), and one that dies between sending it and noting that (it lies there, and is not counted). After such
a death the books are in doubt until the channel was seen empty, and 0.05 s later again, with nothing noted in between:
then who lives has noted what it took, see :meth:`ItemCounts.mend`.
"sent" may be below zero for an instant: the taker may be faster than the sender with its note.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from multiprocessing import util
from typing import Any

from .. import KMutex
from ..core._core import CriticalSection
from ..errors import DriverMutexError
from .channel import End
from .count_table import (
    DOUBT,
    EARLY,
    FIRST,
    IN_HAND,
    RESERVED,
    SENT,
    STILL,
    TAKER_DIED,
    TAKES,
    WIDTH,
    add,
    bury,
    dead_in,
    entry_of,
    limit_early,
    total,
)
from .counter import Counter
from .process_key import me
from .shared_state import (
    SLICE,
    Attempt,
    PackedState,
    State,
    WaitLine,
    deadline_of,
    left,
    must_not_block,
    wait_for_change,
    waits,
)

__all__ = ["ItemCounts", "open_books"]

_AFTER_FEEDERS = -10  # as an exit priority: when the threads of multiprocessing's queues have ended
_SETTLED = 50  # milliseconds after which who has taken or sent an item has noted that, if it lives and is not stopped


def _now() -> int:
    """Milliseconds of the clock that all processes share."""
    return time.monotonic_ns() // 1_000_000


def _leave(counts: weakref.ref[ItemCounts], party: int) -> None:
    found = counts()
    if found is not None:
        with contextlib.suppress(DriverMutexError):  # the queue is gone
            found.leave(party)


class ItemCounts:
    """The books of one queue.

    Args:
        most: how many items it takes, 0 for any number. reader: the reading end of its channel.
        joinable: whether items are followed until they are done.

    Attributes:
        taking: one for each call in this process that takes an item, or ended without having noted what it took.
    """

    def __init__(
        self, mutex: KMutex[bytes] | None, line: CriticalSection | None, most: int, reader: End, joinable: bool
    ):
        self.cell = PackedState("ibq", "qiiib", [0, 0, 0] if mutex is None else mutex)
        self.line = WaitLine(line)
        self.most = most
        self.joinable = joinable
        self._end = reader
        self.taking: list[None] = []
        self._taker = 0  # the process that this object noted as one that takes items
        self._putter = 0  # the process that has put an item with this object

    def reserve(self, block: bool, timeout: float | None, had: list[bool] | None = None) -> bool:
        """Count one more item with this process. Returns False when the queue stayed full.

        ``had`` is not empty once it is counted, whatever a signal handler raises here: then the caller releases it.
        """
        block = waits(block, timeout)
        if block and self.most:
            must_not_block("put")
        if self._putter != me():
            self.mend()  # who comes removes who has gone: else the state would grow with each process
            self._putter = me()
        if self.reserve_now(had):
            return True
        if not block:
            self.mend()
            return bool(self.reserve_now(had))
        return self.line.wait(self.cell.mutex, _Room(self, had), timeout)

    def reserve_now(self, had: list[bool] | None = None) -> bool | None:
        """Count one more item, if there is room: True, else None."""
        return self.cell.change(self._reserve, had)

    def _reserve(self, state: State) -> bool | None:
        self._settle(state)
        if self.most and total(state, RESERVED, SENT) >= self.most:
            return None
        add(state, me(), RESERVED, 1)
        return True

    def release(self) -> None:
        """An item of this process could not be sent: it is counted no more."""

        def strike(state: State) -> bool:
            at = entry_of(state, me())
            if at is not None:  # one noted late, as taken, may stand for this one
                state[at + SENT] = max(state[at + SENT], 1 - state[at + RESERVED])
                add(state, me(), RESERVED, -1)
                limit_early(state)
            return True

        self.cell.change(strike)

    def sent(self, count: int) -> None:
        """So many items of this process lie in the channel, or were taken from it already."""

        def note(state: State) -> bool:
            at = entry_of(state, me())
            if at is not None:
                state[at + SENT] += count
                add(state, me(), RESERVED, -count)
            return True

        self.cell.change(note)

    def will_take(self) -> None:
        """Note that this process takes items, before it takes the first one."""
        party = me()
        if self._taker == party:
            return
        self.mend()  # as reserve() does

        def note(state: State) -> bool | None:
            at = entry_of(state, party)
            if at is not None and state[at + TAKES]:
                return None
            add(state, party, TAKES, 1)
            return True

        self.cell.change(note)
        self._taker = party
        util.Finalize(self, _leave, (weakref.ref(self), party), exitpriority=_AFTER_FEEDERS)

    def leave(self, party: int) -> None:
        """Note that this process, which ends, takes items no more: it has none in its hands that nobody knows of."""
        self._taker = 0  # a thread that goes on, and takes one, notes that anew
        if self.taking:
            return

        def note(state: State) -> bool | None:
            at = entry_of(state, party)
            if at is None or not state[at + TAKES]:
                return None
            add(state, party, TAKES, -1)
            return True

        self.cell.change(note)

    def taken(self, party: int, noted: list[bool]) -> None:
        """This process took an item that ``party`` had put. ``noted`` is not empty once that is written down."""

        def note(state: State) -> bool:
            at = entry_of(state, party)
            if at is not None and state[at + SENT] > -state[at + RESERVED]:  # else it was struck off as lost
                add(state, party, SENT, -1)
            if state[EARLY]:
                state[EARLY] -= 1  # it is done already, and in nobody's hands
            elif self.joinable:
                add(state, me(), IN_HAND, 1)
            state[STILL] = 0
            self._settle(state)
            return True

        self.cell.change(note, noted)

    def may_have_lost_one(self) -> None:
        """This process may have taken an item that nobody will ever note: a call that takes one has failed."""

        def note(state: State) -> bool:
            state[DOUBT] |= TAKER_DIED
            state[STILL] = 0
            return True

        self.cell.change(note)

    def done(self) -> None:
        """An item that was taken is done, by whomever.

        Raises:
            ValueError: all are.
        """

        def note(state: State) -> bool:
            if self._open(state) <= 0:
                raise ValueError("task_done() called too many times")
            holders = [at for at in range(FIRST, len(state), WIDTH) if state[at + IN_HAND] > 0]
            if holders:
                mine = entry_of(state, me())
                add(state, state[mine if mine in holders else holders[0]], IN_HAND, -1)
            else:
                state[EARLY] += 1
            return True

        self.cell.change(note)

    @staticmethod
    def _open(state: State) -> int:
        return total(state, RESERVED, SENT, IN_HAND) - int(state[EARLY])

    def wait_until_done(self, timeout: float | None = None) -> bool:
        """Wait until all items are done. What a dead process had put but not sent, or not finished, counts as done."""
        must_not_block("join")
        deadline = deadline_of(timeout)
        while not wait_for_change(self.cell.mutex, self._all_done, deadline, 2 * SLICE):
            self.mend()
            if left(deadline, 1.0) <= 0:
                return False
        return True

    def _all_done(self) -> bool | None:
        state = self.cell.peek()
        if self._open(state) > 0:
            return None
        empty = self._is_channel_empty()
        if empty is None:
            return True  # this process cannot look, and must not wait for ever for one that can
        # What was done early need not be taken.
        return True if (empty or state[EARLY]) and not state[DOUBT] else None

    def _is_channel_empty(self) -> bool | None:
        """Whether nothing lies in the channel; None where this process has closed it."""
        try:
            return self._end.size() == 0
        except OSError:
            return None

    def count(self) -> int:
        """How many items were put and not taken. What died with a process is not counted."""
        if self._count():
            self.mend()
        return self._count()

    def _count(self) -> int:
        return max(0, total(self.cell.peek(), RESERVED, SENT))

    def full(self) -> bool:
        """Whether there is no room. What died with a process takes none."""
        if not self._is_full():
            return False
        self.mend()
        return self._is_full()

    def _is_full(self) -> bool:
        return self.most > 0 and self._count() >= self.most

    def mend(self) -> None:
        """Strike off what died with a process.

        Who is dead is asked once, which takes long: others who commit meanwhile must not keep this from being done.
        """
        dead = dead_in(self.cell.peek())

        def strike(state: State) -> bool | None:
            before = list(state)
            if dead:
                bury(state, dead)
            self._settle(state)
            return True if state != before else None

        self.cell.change(strike)

    def _settle(self, state: State) -> None:
        """Resolve the doubt that a death left, once who lives has had the time to note what it took.

        A taker that died may have had an item in its hands: it is counted, lies nowhere, and nobody notes it. It is
        struck off. What a sender that died had not noted has been taken, and is counted with the taker. Who was stopped
        for all the time has an item that is struck off, too.
        """
        if not state[DOUBT]:
            return
        empty = self._is_channel_empty()
        if empty is None:
            return  # to be settled by who can look
        if not empty:
            state[STILL] = 0
            return
        now = _now()
        if not state[STILL] or now < state[STILL]:  # noted by another clock: of a time namespace that is ahead
            state[STILL] = now
        if now - state[STILL] < _SETTLED:
            return
        if state[DOUBT] & TAKER_DIED:
            for at in reversed(range(FIRST, len(state), WIDTH)):
                state[at + SENT] = min(0, state[at + SENT])  # below zero: its sender has not noted yet that it sent
                if not any(state[at + 1 : at + WIDTH]):
                    del state[at : at + WIDTH]
            limit_early(state)
        # What is reserved may have been sent without a note, and the dead one may have taken that, too; unless who took
        # it has noted that.
        state[DOUBT] = state[DOUBT] & TAKER_DIED if total(state, RESERVED, SENT) > 0 else 0

    def keep_looking(self, writer: End) -> None:
        """The channel is about to be closed in this process, which may join the queue nevertheless.

        It looks from the writing end: a reading end would keep other processes waiting for who takes what they put.
        """
        with contextlib.suppress(OSError):  # it was closed before
            self._end = End(os.dup(writer.fileno()), readable=False)

    def shared(self) -> tuple[Any, ...]:
        """What another process needs to open the same books, beside the channel."""
        return self.cell.mutex, self.line.section, self.most, self.joinable


class _Room(Attempt):
    """Waiting for room in a queue."""

    def __init__(self, counts: ItemCounts, had: list[bool] | None) -> None:
        self._counts = counts
        self._had = had

    def take(self, first: bool) -> bool | None:
        self.had = bool(self._counts.reserve_now(self._had))
        return self.had or None

    def give_back(self) -> None:
        """Who puts the item does so."""

    def mend(self) -> None:
        self._counts.mend()


def open_books(
    cell: KMutex[Any] | None, line: CriticalSection | None, most: int, joinable: bool, reader: End
) -> ItemCounts | Counter:
    """Return the books that fit a queue: new ones, or those that ``shared()`` of another process's told of."""
    if most or joinable:
        return ItemCounts(cell, line, most, reader, joinable)
    return Counter(cell)
