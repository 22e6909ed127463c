"""Deadlocks: found by a thread that has waited for a while, and named in the one that closed the circle.

The way leads from the waiter's record to the slot that it waits for, to the thread that holds it, to that thread's
record, and so on; if it comes back to the waiter, they wait in a circle. Each of these is read at another instant, so
the whole way is read twice: if nothing has changed between (no record was rewritten, no lock was taken anew), all of
it was true at the instant between the two, and what is true of a circle then stays true.

Only waits that can end in no other way than with the lock count. Whoever waits with a timeout does count: until it is
over, nobody in the circle gets anywhere.
"""

from __future__ import annotations

from . import _board, waits
from ._board import Hold, Record
from .errors import DeadlockError

__all__ = ["LONGEST", "refuse"]

#: How many threads a circle may have at most to be found.
LONGEST = 1024


def _way(start: Record) -> list[tuple[Record, Hold]] | None:
    """The circle that a wait is part of, each record with the hold of what it waits for; None if it is part of none."""
    found: list[tuple[Record, Hold]] = []
    seen: set[tuple[int, int]] = set()
    record = start
    while len(found) < LONGEST:
        hold = _board.hold_of(record.segment, record.nonce, record.slot, record.generation)
        if hold is None or hold.state != "held":
            return None
        found.append((record, hold))
        thread = hold.pid, hold.tid
        if thread == (start.pid, start.tid):
            return found
        following = _board.record_by(*thread)
        if following is None or thread in seen:
            return None  # it is at work; or others wait in a circle that the start is not part of
        seen.add(thread)
        record = following
    return None


def _to_be_told(way: list[tuple[Record, Hold]]) -> Record | None:
    """Whose wait began last, but for those who take back what they had: nothing may come out of their waits."""
    records = [record for record, _ in way if record.kind == _board.WAIT_LOCK]
    return max(records, key=lambda record: (record.since, record.pid, record.tid), default=None)


def _facts(way: list[tuple[Record, Hold]]) -> list[tuple[object, ...]]:
    return [(record, hold.pid, hold.tid, hold.acquisitions) for record, hold in way]


def refuse(ticket: int) -> None:
    """Raise DeadlockError if the calling thread's wait is the one that closed a circle.

    Args:
        ticket: of the calling thread's record on the board.

    Raises:
        DeadlockError, or what a signal handler raises.
    """
    mine = _board.record_of(ticket)
    if mine is None:
        return
    way = _way(mine)
    if way is None or _to_be_told(way) != mine:
        return
    if any(_board.started(record.pid) != record.start for record, _ in way):
        return  # what a dead process wrote, whose pid and thread another has by now
    again = _way(mine)
    if again is None or _facts(again) != _facts(way):
        return
    names = [waits.label_of(record, hold) for record, hold in way]
    chain = tuple(waits.link_of(record, names[at - 1], names[at]) for at, (record, _) in enumerate(way))
    others = "; ".join(
        f"process {link.pid} ({link.command[:120]}), thread {link.tid} ({link.thread}), holds {link.holds!r} and has "
        f"waited for {link.waits_for!r} for {link.waited:.3f} s"
        for link in chain[1:]
    )
    raise DeadlockError(
        f"waiting for mutex {names[0]!r} would never end: this thread holds {names[-1]!r}; {others}. Lock them in one "
        "order everywhere, or let go of what is held before waiting",
        name=way[0][1].name,
        owner_pid=way[0][1].pid,
        owner_tid=way[0][1].tid,
        chain=chain,
    )
