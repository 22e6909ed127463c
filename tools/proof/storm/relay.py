"""Mutexes whose next value is waited for: each T is the last times at which somebody committed one.

So who waited for a value that is newer than its wait can tell when the first of those was made, and how long it took to
be told of it. A herald commits one every few milliseconds, whoever else does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wdkmutex_shm import FastMutex, Grt, KMutex
from wdkmutex_shm.errors import LockTimeout

from .book import Book

if TYPE_CHECKING:
    from .worker import Worker

__all__ = [
    "PATIENCE",
    "add",
    "arrived",
    "follow",
    "lock_when",
    "make_relays",
    "newer",
    "tell",
    "wait_for",
    "wait_in_guard",
]

PATIENCE = 3.0
"""Seconds after which who waits for a value gives up: it was promised within two."""
_LONGEST = "longest wait for a value, microseconds"
_KEPT = {"relay-short": 6, "relay-long": 24}  # the one stands in its slot, the other in a data segment
_VALUES = 3


def make_relays(number: int) -> list[Book]:
    """Make the mutexes; ``number`` is that of the first one."""
    now = [time.monotonic_ns()]
    Grt.register_kmutex("relay-short", now)
    return [
        Book(number, "relay-short", "k", None, None, False),
        Book(number + 1, "relay-long", "fast", None, FastMutex(now), False),
        Book(number + 2, "relay-count", "k", None, KMutex(now[0]), False),
    ]


def add(guard: Any, name: str) -> None:
    """Set the next value of a relay."""
    now = time.monotonic_ns()
    if name in _KEPT:
        guard.value = [*guard.value, now][-_KEPT[name] :]
    else:
        guard.value = now


def newer(than: int) -> Callable[[Any], bool]:
    """The predicate of a value that was made later."""
    return lambda value: (value[-1] if isinstance(value, list) else value) > than


def arrived(worker: Worker, name: str, begun: tuple[int, int], value: Any) -> None:
    """A value was had that is newer than the wait for it, and in time."""
    times = value if isinstance(value, list) else [value]
    if not newer(begun[0])(value):
        worker.log.broken("what is waited for holds when the wait ends", mutex=name, begun=begun[0], found=str(times))
    elif times[0] <= begun[0] or not isinstance(value, list):  # else the first one that was newer is forgotten
        first = min(then for then in times if then > begun[0])
        worker.waited(name, (first, begun[1]), _LONGEST)


def _late(worker: Worker, name: str, begun: tuple[int, int]) -> None:
    """No value came: that must be because somebody is stopped who has the lock."""
    worker.count("timeouts")
    worker.waited(name, begun, _LONGEST)


def _relay(worker: Worker) -> tuple[str, Any]:
    book = worker.chance.choice(worker.world.relays)
    return book.name, worker.handle(book)


def tell(worker: Worker) -> None:
    name, mutex = _relay(worker)
    with worker.lock(mutex) as guard:
        add(guard, name)
        if worker.chance.random() < 0.2:
            guard.commit()


def lock_when(worker: Worker) -> None:
    name, mutex = _relay(worker)
    begun = worker.now()
    try:
        with mutex.lock_when(newer(begun[0]), timeout=PATIENCE) as guard:
            worker.note_abandoned(guard)
            arrived(worker, name, begun, guard.value)
            add(guard, name)
    except LockTimeout:
        _late(worker, name, begun)


def wait_for(worker: Worker) -> None:
    name, mutex = _relay(worker)
    begun = worker.now()
    try:
        value = mutex.wait_for(newer(begun[0]), timeout=PATIENCE)
    except LockTimeout:
        _late(worker, name, begun)
    else:
        arrived(worker, name, begun, value)


def wait_in_guard(worker: Worker) -> None:
    """In the midst of a `with`: what was set is told to the others, and theirs waited for."""
    name, mutex = _relay(worker)
    with worker.lock(mutex) as guard:
        add(guard, name)
        guard.commit()
        begun = worker.now()
        try:
            guard.wait_for(newer(begun[0]), timeout=PATIENCE)
        except LockTimeout:
            _late(worker, name, begun)
        else:
            arrived(worker, name, begun, guard.value)
        add(guard, name)


def follow(worker: Worker) -> None:
    """Some values, one after the other: none is older than the one before."""
    name, mutex = _relay(worker)
    last, begun = 0, worker.now()
    for count, value in enumerate(mutex.changes(timeout=PATIENCE)):
        time_of = value[-1] if isinstance(value, list) else value
        if time_of < last:
            worker.log.broken("values come in the order of their commits", mutex=name, before=last, found=time_of)
        last = time_of
        if count:
            worker.waited(name, begun, _LONGEST)
        if count == _VALUES:
            return
        begun = worker.now()
    _late(worker, name, begun)
