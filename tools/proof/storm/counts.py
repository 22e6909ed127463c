"""What the storm counts: what was done, how often each deed was, and the longest waits."""

from __future__ import annotations

__all__ = ["COUNTS", "DEEDS", "deed"]

DEEDS = (
    "commit",
    "commit nested",
    "commit twice",
    "commit by dropping the guard",
    "try_lock",
    "rollback",
    "two locks in any order",
    "fork while holding",
    "peek",
    "pickle",
    "tasks of an event loop",
    "waiters looked at",
    "critical section",
    "a mutex of its own",
    "registered anew",
    "lock_all: transfer",
    "lock_all: two counters",
    "lock_all: books",
    "lock_any",
    "fork in lock_all",
    "value told",
    "lock_when",
    "wait_for",
    "guard.wait_for",
    "changes",
    "mp.Lock",
    "mp.Value",
    "mp.Semaphore",
    "mp.Condition: told",
    "mp.Condition: waited",
    "mp.Queue: put",
    "mp.Queue: taken",
)


def deed(name: str) -> str:
    """What a deed that was done to its end is counted as."""
    return f"deeds: {name}"


COUNTS = (
    "operations",
    "commits",
    "peeks",
    "rollbacks",
    "interrupts",
    "forks while holding",
    "registrations",
    "abandoned",
    "abandoned, one of several",
    "abandoned, mp",
    "circles named",
    "longest circle",
    "waiters told",
    "tasks",
    "tasks cancelled",
    "values waited for in tasks",
    "timeouts",
    "lives ended in order",
    "pool: tasks done",
    "pool: tasks that died with their worker",
    "pool: workers killed",
    *map(deed, DEEDS),
    "longest wait, microseconds",
    "longest wait for a value, microseconds",
    "longest wait for a type of multiprocessing, microseconds",
)
