"""What a worker does next: how likely each operation is, and whether a Ctrl-C may come in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..operations.actor import ALL_KINDS, T_KINDS, Operation, nothing, one, some, unchecked
from ..operations.catalogue import OPERATIONS
from . import bank, operations, types
from .actor import LOCK, TYPE, VALUE, Keeper
from .setup import Book


class Entry(NamedTuple):
    """An operation of the storm.

    Attributes:
        weight: how likely it is.
        operation: what it is.
        calm: whether Ctrl-C is kept away: it would leave the program's own data half changed, or a loop half made.
    """

    weight: float
    operation: Operation
    calm: bool = False


def _relay(worker: Keeper) -> tuple[Book, ...]:
    return (worker.chance.choice(worker.world.relays),)


def _and_a_relay(worker: Keeper) -> tuple[Book, ...]:
    book = worker.choose(T_KINDS)
    return (*book, *_relay(worker)) if book else ()


def _known(name: str, prepare: Callable[[Any], tuple[Any, ...]] | None = None, called: str | None = None) -> Operation:
    """One of the catalogue's; if need be done to something else, or under another name."""
    operation = OPERATIONS[name]
    return operation._replace(name=called or name, prepare=prepare or operation.prepare)


def _own(name: str, do: Callable[..., object], prepare: Callable[[Any], tuple[Any, ...]] = nothing) -> Operation:
    return Operation(name, do, prepare, unchecked)


TABLE = (
    Entry(16, _known("commit")),
    Entry(3, _known("commit nested")),
    Entry(3, _known("commit twice")),
    Entry(1, _known("commit while held")),
    Entry(3, _known("commit by dropping the guard")),
    Entry(1, _known("commit by drop_safe")),
    Entry(0.3, _known("commit in a task"), calm=True),
    Entry(3, _known("try_lock")),
    Entry(4, _known("exception")),
    Entry(1, _known("rollback")),
    Entry(8, _known("peek")),
    Entry(0.5, _known("look")),
    Entry(7, _known("hold", called="critical section"), calm=True),
    Entry(1, _known("hold twice", called="critical section, twice"), calm=True),
    Entry(0.8, _known("tasks of an event loop", _and_a_relay), calm=True),
    Entry(3, _known("lock_all")),
    Entry(0.5, _known("lock_all, committed while held")),
    Entry(0.4, _known("lock_all, exception")),
    Entry(2, _known("lock_any", some(*T_KINDS))),
    Entry(1, _known("lock_any", called="lock_any, with sections"), calm=True),
    Entry(4, _known("commit", _relay, called="value told")),
    Entry(1, _known("lock_when", _relay)),
    Entry(1, _known("wait_for", _relay)),
    Entry(1, _known("guard.wait_for", _relay)),
    Entry(0.5, _known("changes", _relay)),
    Entry(0.3, _known("wait_for_async", _relay), calm=True),
    Entry(0.3, _known("lock_async"), calm=True),
    Entry(0.8, _own("pickle", operations.pickled, one(*T_KINDS))),
    Entry(1, _own("a mutex of its own", operations.own)),
    Entry(0.7, _own("registered again", operations.register_again, operations.renewed)),
    Entry(3, _own("two locks in any order", operations.cross, some(*T_KINDS, most=2))),
    Entry(0.8, _own("waiters looked at", operations.look_at_waiters, one(*T_KINDS))),
    Entry(1.6, _own("fork while holding", operations.fork_holding, one(*T_KINDS))),
    Entry(0.5, _own("fork in lock_all", operations.fork_holding_all, some(*ALL_KINDS)), calm=True),
    Entry(6, _own("lock_all: transfer", bank.transfer)),
    Entry(3, _own("lock_all: two counters", bank.move)),
    Entry(3, _own("mp.Lock", types.lock), calm=True),
    Entry(2, _own("mp.Value", types.value), calm=True),
    Entry(2, _own("mp.Semaphore", types.semaphore), calm=True),
    Entry(1, _own("mp.Condition: told", types.tell), calm=True),
    Entry(0.5, _own("mp.Condition: waited", types.wait), calm=True),
    Entry(3, _own("mp.Queue: put", types.put), calm=True),
    Entry(3, _own("mp.Queue: taken", types.take), calm=True),
)
WEIGHTS = [entry.weight for entry in TABLE]


def done(name: str) -> str:
    """What an operation that was done to its end is counted as."""
    return f"operations: {name}"


COUNTED = (
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
    "deadlocks named",
    "longest deadlock",
    "waiters told",
    "tasks",
    "tasks cancelled",
    "values waited for in tasks",
    "timeouts",
    "lives ended in order",
    "pool: tasks done",
    "pool: tasks that died with their worker",
    "pool: workers killed",
    *(done(entry.operation.name) for entry in TABLE),
    LOCK,
    VALUE,
    TYPE,
)
"""All that is counted."""
