"""Deadlocks: found by a thread that has waited for a while, and named in the one that closed the circle.

The way leads from the waiter's record to the slot that it waits for, to the thread that holds it, to that thread's
record, and so on; if it comes back to the waiter, they wait in a circle. Each of these is read at another instant, so
the whole way is read twice: if nothing has changed between (no record was rewritten, no lock was taken anew), all of
it was true at the instant between the two, and what is true of a circle then stays true.

Who waits for any of several locks is stuck if all of them are held by threads that are. So what is looked at is all
that a wait leads to: if every thread in it waits, nobody in it ever gets anywhere; and if all of them lead to one
another, all find the same, and agree on who is told. Else the start waits for others in a circle, which they break
themselves.

Only waits that can end in no other way than with a lock count. Whoever waits with a timeout does count: until it is
over, nobody in the circle gets anywhere.
"""

from __future__ import annotations

import os
import struct

from ..core import _core
from ..core._core import Hold, WaitRecord
from ..errors import DeadlockError, DeadlockLink
from . import waiters

__all__ = ["LONGEST", "refuse", "told"]

#: How many threads a circle may have at most to be found.
LONGEST = 1024


#: Of each thread, all that it waits for and would take any of, with who holds it.
_Waits = dict[tuple[int, int], list[tuple[WaitRecord, Hold]]]


def _all_from(start: tuple[int, int]) -> _Waits | None:
    """All threads that a thread's wait leads to, itself included; None if one of them may still go on."""
    found: _Waits = {}
    ahead = [start]
    while ahead:
        thread = ahead.pop()
        if thread in found:
            continue
        records = _core.waits_of(*thread)
        if records is None or len(found) == LONGEST:
            return None  # it is at work
        found[thread] = []
        for record in records:
            hold = _core.hold_of(record.segment, record.nonce, record.slot, record.generation)
            if hold is None or hold.state != "held" or (hold.pid, hold.tid) == thread:
                return None
            found[thread].append((record, hold))
            ahead.append((hold.pid, hold.tid))
    return found


def _circle(found: _Waits, start: tuple[int, int]) -> list[tuple[WaitRecord, Hold]] | None:
    """A circle of waits that begins with the start's; None if the start only waits for others that are in one."""
    before: dict[tuple[int, int], tuple[WaitRecord, Hold]] = {}  # by which wait a thread is reached
    ahead = [start]
    for thread in ahead:
        for record, hold in found[thread]:
            holder = hold.pid, hold.tid
            if holder not in before:
                before[holder] = record, hold
                ahead.append(holder)
    if start not in before:
        return None
    way = [before[start]]
    while (way[0][0].pid, way[0][0].tid) != start:
        way.insert(0, before[way[0][0].pid, way[0][0].tid])
    return way


def _all_lead_to(found: _Waits, start: tuple[int, int]) -> bool:
    """Whether each of the threads waits in the end for the start, too; then each of them finds the same."""
    waiting: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for thread, links in found.items():
        for _, hold in links:
            waiting.setdefault((hold.pid, hold.tid), []).append(thread)
    seen = {start}
    ahead = [start]
    for thread in ahead:
        for other in waiting.get(thread, ()):
            if other not in seen:
                seen.add(other)
                ahead.append(other)
    return len(seen) == len(found)


def _to_be_told(found: _Waits) -> tuple[int, int] | None:
    """Whose wait began last, but for those who take back what they had: nothing may come out of their waits."""
    records = [links[0][0] for links in found.values() if links[0][0].kind != _core.WAIT_BACK]
    last = max(records, key=lambda record: (record.since, record.pid, record.tid), default=None)
    return None if last is None else (last.pid, last.tid)


def _facts(found: _Waits) -> set[tuple[object, ...]]:
    return {(record, hold.pid, hold.tid, hold.acquisitions) for links in found.values() for record, hold in links}


def refuse(ticket: int) -> None:
    """Raise DeadlockError if the calling thread's wait is the one that closed a circle.

    Args:
        ticket: of the calling thread's record on the board; any of them if it takes any of several locks.

    Raises:
        DeadlockError, or what a signal handler raises.
    """
    mine = _core.wait_record(ticket)
    if mine is None:
        return
    start = mine.pid, mine.tid
    found = _all_from(start)
    if found is None or not any(record == mine for record, _ in found[start]):
        return
    way = _circle(found, start)
    if way is None or not _all_lead_to(found, start) or _to_be_told(found) != start:
        return
    if any(_core.process_start(links[0][0].pid) != links[0][0].start for links in found.values()):
        return  # what a dead process wrote, whose pid and thread another has by now
    again = _all_from(start)
    if again is None or _facts(again) != _facts(found):
        return
    names = [waiters.label_of(record, hold) for record, hold in way]
    chain = tuple(waiters.link_of(record, names[at - 1], names[at]) for at, (record, _) in enumerate(way))
    _leave_word(way, chain)
    others = "; ".join(
        f"process {link.pid} ({link.command[:120]}), thread {link.tid} ({link.thread}), holds {link.holds!r} and has "
        f"waited for {link.waits_for!r} for {link.waited:.3f} s"
        for link in chain[1:]
    )
    if any(len(links) > 1 for links in found.values()):
        others += "; where one of them waits for any of several mutexes, all of these are held by such threads"
    raise DeadlockError(
        f"waiting for mutex {names[0]!r} would never end: this thread holds {names[-1]!r}; {others}. Lock them in one "
        "order everywhere, or release the held locks before waiting",
        name=way[0][1].name,
        owner_pid=way[0][1].pid,
        owner_tid=way[0][1].tid,
        chain=chain,
    )


_HEAD = struct.Struct("=QIIII")
_TALE = struct.Struct(f"=I{_core.BOARD_TALE}s")


def _leave_word(way: list[tuple[WaitRecord, Hold]], chain: tuple[DeadlockLink, ...]) -> None:
    """Write the circle down on the board, with the instances that its mutexes are of: the daemons' logs tell of it."""
    prefixes = {record.segment.rpartition(".p")[0] for record, _ in way}
    instances = sorted({prefix.rpartition(".")[2] for prefix in prefixes if ".@" not in prefix})
    links = "; ".join(
        f"process {link.pid}, thread {link.tid} holds {link.holds!r} and waits for {link.waits_for!r}" for link in chain
    )
    _core.tell_deadlock(
        f"{','.join(instances)}|{len(chain)} threads, of which the first got the error: {links}".encode()
    )


def told(seen: int) -> tuple[int, list[tuple[list[str], str]]]:
    """Read what deadlocks were broken among the user's processes. The board holds the last few.

    Args:
        seen: the number that this returned before, 0 at first.

    Returns:
        A number, and of each deadlock since: the instances whose mutexes it was about, and the circle in words.
    """
    try:
        fd = os.open(_core.wait_board_path(), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # there is none: it goes with the last process that uses it
        return 0, []
    try:
        raw = os.pread(fd, _core.BOARD_HEADER, 0)
    finally:
        os.close(fd)
    if len(raw) < _core.BOARD_HEADER:
        return 0, []
    magic, layout, _, count, _ = _HEAD.unpack_from(raw)
    if (magic, layout) != _core.BOARD_START:
        return 0, []
    tales = sorted(_TALE.unpack_from(raw, _HEAD.size + at * _TALE.size) for at in range(_core.BOARD_TALES))
    found = []
    for number, words in tales:
        if number > seen if seen <= count else number:  # a number that went back is that of another board
            instances, _, text = words.rstrip(b"\0").decode("utf-8", "replace").partition("|")
            found.append((instances.split(","), text))
    return count, found
