"""Plain facts that several layers speak of: where a mutex lives, who holds it and who waits, what a slot counts."""

from __future__ import annotations

from typing import NamedTuple

from .unset import UNSET, Unset

__all__ = [
    "UNSET",
    "Holder",
    "MutexInfo",
    "PoolStats",
    "SlotInfo",
    "SlotRef",
    "Statistics",
    "TypeTag",
    "Unset",
    "Waiter",
]


#: (code, hash, label) of T as a slot records it.
TypeTag = tuple[int, int, bytes]


class SlotRef(NamedTuple):
    """Which tenant of which slot: all that a process needs to attach to a mutex.

    Attributes:
        segment: name of the pool segment. nonce: which segment of that name.
        slot: number of the slot in it. generation: which tenant of the slot.
    """

    segment: str
    nonce: int
    slot: int
    generation: int


class Holder(NamedTuple):
    """The thread that holds a lock.

    Attributes:
        pid: its process.
        tid: its Linux thread id; equal to ``pid`` for a main thread.
        thread: the thread's name as the kernel knows it, or ``?``.
        command: the process's command line, or ``?`` if it is gone.
        held_for: seconds since the hold was first observed; a lower bound, because locking reads no clock.
        alive: False if the thread or its process is proved to have ended and the lock was not acquired since.
    """

    pid: int
    tid: int
    thread: str
    command: str
    held_for: float
    alive: bool


class Waiter(NamedTuple):
    """A thread or task that has waited for a mutex for at least a millisecond (a task: about 50 ms).

    Attributes:
        pid: the process. tid: its thread (Linux thread id); of a task, the thread of its event loop.
        thread: the thread's name as the kernel knows it, or ``?``.
        command: the process's command line, or ``?`` if it is gone.
        waited: seconds since the wait began.
        how: ``lock``: for the lock and nothing else; ``any``: for this one of several; ``value``: for a value of it;
            ``task``: a task of an event loop, while the loop runs others.
    """

    pid: int
    tid: int
    thread: str
    command: str
    waited: float
    how: str


class Statistics(NamedTuple):
    """Counts of one mutex since it was made; see ``statistics()``.

    Attributes:
        acquisitions: how often the lock was acquired. contended: how often after a wait.
        abandoned: how often its holder died. timeouts: how many waits timed out.
        commits: how often T was published. value_bytes: size of T in msgpack.
        pool_bytes: shared memory used by the mutex.
    """

    acquisitions: int
    contended: int
    abandoned: int
    timeouts: int
    commits: int
    value_bytes: int
    pool_bytes: int


class SlotInfo(NamedTuple):
    """What a slot tells without its lock being taken; each fact is right by itself, not all at one instant.

    Attributes:
        name, kind, label: the mutex's name, kind (``fast``, ``k``, ``section``) and T.
        value_bytes: bytes of T in msgpack form. pool_bytes: shared memory that the mutex takes.
        state: ``free``, ``held`` or ``abandoned`` (its holder died and nobody took it over yet).
        owner_pid, owner_tid: the holder. held_for: seconds since the hold was first seen, a lower bound.
        acquisitions, contended, abandoned, timeouts, commits: counts since registration.
        abandoned_pid: the last holder that died. segment, slot, generation: where it lives.
    """

    name: str
    kind: str
    label: str
    value_bytes: int
    pool_bytes: int
    state: str
    owner_pid: int | None
    owner_tid: int | None
    held_for: float | None
    acquisitions: int
    contended: int
    abandoned: int
    timeouts: int
    commits: int
    abandoned_pid: int | None
    segment: str
    slot: int
    generation: int


class MutexInfo(NamedTuple):
    """A mutex as :meth:`Grt.snapshot` saw it.

    Attributes:
        name: its name; empty if it is anonymous.
        kind: ``fast``, ``k``, ``section``, or ``box`` for a T that was moved out with ``to_owned_box()``.
        label: the name of T, at most 20 bytes of it.
        state: ``free``, ``held``, ``abandoned`` (its holder died, and nobody has acquired it since), or ``damaged``:
            no mutex can have the bytes of the slot; the other attributes are what these bytes say.
        holder: the thread that holds it, or that died while it held it. None if the mutex is free, or is just being
            acquired or released.
        waiters: who waits for it, the longest waiting first.
        abandoned_by: the process that was the last holder to die, or None.
        statistics: counts, bytes of T and of shared memory.
        segment, slot, generation: where it lives.
    """

    name: str
    kind: str
    label: str
    state: str
    holder: Holder | None
    waiters: tuple[Waiter, ...]
    abandoned_by: int | None
    statistics: Statistics
    segment: str
    slot: int
    generation: int


class PoolStats(NamedTuple):
    """Totals of a pool: segments, slots in them, slots in use and in quarantine, bytes of segments and of data."""

    segments: int
    slots: int
    used: int
    quarantined: int
    pool_bytes: int
    data_bytes: int
