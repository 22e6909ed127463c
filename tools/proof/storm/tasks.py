"""Tasks of an event loop in the storm: they lock and wait for values, are cancelled, and die with their process."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from wdkmutex_shm.errors import LockTimeout

from . import relay
from .book import Book, undisturbed

if TYPE_CHECKING:
    from .worker import Worker

__all__ = ["run_tasks"]

_TIMEOUT = 10.0
_SHORT = 0.001
_MOST, _WATCHERS = 8, 2
_CANCELLED = 0.3  # of them


def run_tasks(worker: Worker, book: Book, mutex: Any) -> None:
    """Let some tasks change T and others wait for values; cancel some, before they run, in line, or as they hold."""
    told = worker.chance.choice(worker.world.relays)
    # A Ctrl-C would leave a loop half made or half closed.
    with undisturbed():
        asyncio.run(_main(worker, book, mutex, told.name, worker.handle(told)))
        owner = mutex.owner
        if owner is not None and owner.pid == os.getpid():
            worker.log.broken("no task that was cancelled leaves a lock held", mutex=book.name, owner=owner)
        mine = [waiter for waiter in mutex.waiters() if waiter.pid == os.getpid()]
        if mine:
            worker.log.broken("no task that was cancelled is waiting still", mutex=book.name, waiters=str(mine))


async def _main(worker: Worker, book: Book, mutex: Any, name: str, told: Any) -> None:
    chance = worker.chance
    tasks = [
        asyncio.create_task(_change(worker, book, mutex, _SHORT if chance.random() < 0.2 else _TIMEOUT))
        for _ in range(chance.randrange(2, _MOST))
    ]
    tasks += [asyncio.create_task(_watch(worker, name, told)) for _ in range(chance.randrange(_WATCHERS + 1))]
    worker.count("tasks", len(tasks))
    for _ in range(chance.randrange(4)):
        await asyncio.sleep(0)
    for task in tasks:
        if chance.random() < _CANCELLED:
            worker.count("tasks cancelled", task.cancel())
            if chance.random() < 0.5:
                await asyncio.sleep(chance.choice((0, _SHORT)))
    for end in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
            raise end


async def _change(worker: Worker, book: Book, mutex: Any, timeout: float) -> None:
    begun = worker.now()
    try:
        async with mutex.lock_async(timeout) as guard:
            if timeout == _TIMEOUT:
                worker.waited(book.name, begun)
            worker.note_abandoned(guard)
            found = worker.next(book, guard.value)
            await asyncio.sleep(worker.chance.choice((0, 0, _SHORT)))
            if found:
                guard.value = found[0]
    except LockTimeout:
        if timeout == _TIMEOUT:
            raise
        worker.count("timeouts")
        return
    if found:
        worker.done(book, found[1])


async def _watch(worker: Worker, name: str, told: Any) -> None:
    begun = worker.now()
    try:
        value = await told.wait_for_async(relay.newer(begun[0]), timeout=relay.PATIENCE)
    except LockTimeout:
        worker.count("timeouts")
        worker.waited(name, begun, "longest wait for a value, microseconds")
        return
    relay.arrived(worker, name, begun, value)
    last = 0
    count = 0
    async for value in told.changes(timeout=relay.PATIENCE):
        time_of = value[-1] if isinstance(value, list) else value
        if time_of < last:
            worker.log.broken("values come in the order of their commits", mutex=name, before=last, found=time_of)
        last, count = time_of, count + 1
        if count > 1:
            break
    worker.count("values waited for in tasks", count)
