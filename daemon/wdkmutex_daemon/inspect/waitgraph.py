"""The graph of who waits for whom: threads, the mutexes that they wait for, and who holds those.

Drawn from the wait board and from the slots that it names, of all instances and private pools of the user, without any
lock being taken and without a daemon. Each fact is right by itself, not all of them at one instant.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from wdkmutex_shm.base.identity import command_of
from wdkmutex_shm.base.names import KIND_WORDS
from wdkmutex_shm.base.records import Waiter
from wdkmutex_shm.core._core import Hold, WaitRecord
from wdkmutex_shm.observe.holder import thread_name
from wdkmutex_shm.observe.waiters import all_waits, label_of

__all__ = ["Graph", "Mutex", "Thread", "Wait"]


class Thread(NamedTuple):
    """A thread: a node of the graph."""

    pid: int
    tid: int


class Mutex(NamedTuple):
    """A tenant of a slot: a node of the graph."""

    segment: str
    nonce: int
    slot: int
    generation: int


class Wait(NamedTuple):
    """One wait: an edge of the graph, from a thread to a mutex.

    Attributes:
        thread, mutex: which. waiter: what there is to say of it. hold: the mutex as it was seen, None if it is gone.
        label: what to call the mutex.
    """

    thread: Thread
    mutex: Mutex
    waiter: Waiter
    hold: Hold | None
    label: str

    @property
    def holder(self) -> Thread | None:
        """The thread that holds the mutex, None while nobody does."""
        return Thread(self.hold.pid, self.hold.tid) if self.hold is not None and self.hold.state == "held" else None

    @property
    def instance(self) -> str | None:
        """The instance that the mutex belongs to, None for an anonymous one."""
        prefix = self.mutex.segment.rpartition(".p")[0]
        return None if ".@" in prefix else prefix.rpartition(".")[2]


def _wait(record: WaitRecord, waiter: Waiter, hold: Hold | None) -> Wait:
    mutex = Mutex(record.segment, record.nonce, record.slot, record.generation)
    label = "a mutex that is gone" if hold is None else label_of(record, hold)
    return Wait(Thread(record.pid, record.tid), mutex, waiter, hold, label)


class Graph:
    """All waits of the user's processes, as they are now.

    Attributes:
        waits: by mutex, who has waited longest first.
        circles: threads that wait for each other in a circle, and the mutexes that they wait for.
    """

    def __init__(self) -> None:
        self.waits: dict[Mutex, list[Wait]] = {}
        self._blocked: dict[Thread, Wait] = {}
        for found in all_waits():
            wait = _wait(*found)
            self.waits.setdefault(wait.mutex, []).append(wait)
            if wait.waiter.how == "lock":
                self._blocked[wait.thread] = wait  # the latest one, if a signal handler waits in the midst of a wait
        self.circles: set[Thread | Mutex] = set()
        for thread in self._blocked:
            self.circles |= self._circle(thread)

    def _circle(self, start: Thread) -> set[Thread | Mutex]:
        """The circle that a thread is part of, empty if it is part of none."""
        passed: set[Thread | Mutex] = set()
        thread: Thread | None = start
        while thread is not None and thread not in passed:
            wait = self._blocked.get(thread)
            if wait is None:
                return set()
            passed |= {thread, wait.mutex}
            thread = wait.holder
        return passed if thread == start else set()

    def held_by(self, thread: Thread) -> list[Mutex]:
        """The mutexes that a thread holds and somebody waits for."""
        return [mutex for mutex, waits in self.waits.items() if waits[0].holder == thread]

    def roots(self) -> list[Mutex]:
        """Mutexes from which all others can be reached, through who waits for them and what those hold."""
        found = [
            mutex for mutex, waits in self.waits.items() if waits[0].holder is None or not self._waits(waits[0].holder)
        ]
        reached = set(found)
        open_ = list(found)
        for mutex in [None, *self.waits]:
            if mutex is not None:
                if mutex in reached:
                    continue
                found.append(mutex)  # one of a circle
                reached.add(mutex)
                open_.append(mutex)
            while open_:
                following = {held for wait in self.waits[open_.pop()] for held in self.held_by(wait.thread)} - reached
                reached |= following
                open_ += following
        return found

    def _waits(self, thread: Thread) -> bool:
        return any(wait.thread == thread for waits in self.waits.values() for wait in waits)

    def rows(self) -> list[dict[str, Any]]:
        """Each wait as a dict of plain values."""
        return [self._row(wait) for waits in self.waits.values() for wait in waits]

    def _row(self, wait: Wait) -> dict[str, Any]:
        hold, holder = wait.hold, wait.holder
        return {
            **wait.waiter._asdict(),
            "mutex": wait.label,
            "kind": KIND_WORDS.get(hold.kind, "?") if hold is not None else None,
            "instance": wait.instance,
            "segment": wait.mutex.segment,
            "slot": wait.mutex.slot,
            "generation": wait.mutex.generation,
            "state": hold.state if hold is not None else "gone",
            "owner_pid": holder.pid if holder is not None else None,
            "owner_tid": holder.tid if holder is not None else None,
            "owner_thread": thread_name(*holder) if holder is not None else None,
            "owner_command": command_of(holder.pid) if holder is not None else None,
            "held_for": hold.held_for if hold is not None else None,
            "deadlock": wait.thread in self.circles and wait.mutex in self.circles,
        }
