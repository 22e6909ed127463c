"""Waits for a T, in every way; and tasks of an event loop, which wait for locks and for values."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from wdkmutex_shm.errors import LockTimeout

from .actor import Actor
from .multi import change

_SHORT = 0.001
_MOST, _WATCHERS = 8, 2
_CANCELLED = 0.3  # of the tasks


@contextlib.contextmanager
def _waiting(actor: Actor, at: Any) -> Iterator[Any]:
    news = actor.news(at)
    try:
        yield news
    except LockTimeout:
        actor.late(news)


def lock_when(actor: Actor, at: Any) -> None:
    """The lock, once T is as it is waited for; and a change."""
    with _waiting(actor, at) as news, actor.handle(at).lock_when(news, actor.patience) as guard:
        actor.arrived(news, actor.had(at, guard).value)
        change(actor, at, guard)
    actor.done(at)


def wait_for(actor: Actor, at: Any) -> None:
    """T, without the lock."""
    with _waiting(actor, at) as news:
        actor.arrived(news, actor.handle(at).wait_for(news, actor.patience))


def wait_in_guard(actor: Actor, at: Any) -> None:
    """Amid a hold: what was set is told to the others, and theirs waited for."""
    with actor.lock(at) as guard:
        change(actor, at, guard)
        guard.commit()
        actor.done(at)
        with _waiting(actor, at) as news:
            guard.wait_for(news, actor.patience)
            actor.arrived(news, actor.had(at, guard).value)  # locked again, perhaps after a death
        change(actor, at, guard)
    actor.done(at)


def changes(actor: Actor, at: Any) -> None:
    """Some values, one after the other."""
    with _waiting(actor, at) as news:
        for value in actor.handle(at).changes(timeout=actor.patience):
            if not actor.follow(news, value):
                return
        raise LockTimeout("no other value has come")


async def _wait(actor: Actor, at: Any) -> None:
    with _waiting(actor, at) as news:
        actor.arrived(news, await actor.handle(at).wait_for_async(news, timeout=actor.patience))


def wait_in_task(actor: Actor, at: Any) -> None:
    """T, by a task."""
    asyncio.run(_wait(actor, at))


def lock_in_task(actor: Actor, at: Any) -> None:
    """A change by a task."""
    asyncio.run(_change(actor, at, actor.timeout))


def run_tasks(actor: Actor, at: Any, watched: Any) -> None:
    """Some tasks change T and others wait for a value; some are cancelled: before they run, in line, as they hold."""
    asyncio.run(_main(actor, at, watched))


async def _main(actor: Actor, at: Any, watched: Any) -> None:
    chance = actor.chance
    timeouts = [_SHORT if chance.random() < 0.2 else actor.timeout for _ in range(chance.randrange(2, _MOST))]
    tasks = [asyncio.create_task(_change(actor, at, timeout)) for timeout in timeouts]
    if watched is not None:
        tasks += [asyncio.create_task(_watch(actor, watched)) for _ in range(chance.randrange(_WATCHERS + 1))]
    actor.count("tasks", len(tasks))
    for _ in range(chance.randrange(4)):
        await asyncio.sleep(0)
    for task in tasks:
        if chance.random() < _CANCELLED:
            actor.count("tasks cancelled", task.cancel())
            if chance.random() < 0.5:
                await asyncio.sleep(chance.choice((0, _SHORT)))
    for end in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
            raise end


async def _change(actor: Actor, at: Any, timeout: float) -> None:
    try:
        async with actor.handle(at).lock_async(timeout) as guard:
            actor.had(at, guard)
            await asyncio.sleep(actor.chance.choice((0, 0, _SHORT)))
            if guard.value is not None:  # as that of a section
                change(actor, at, guard)
    except LockTimeout:
        if timeout != _SHORT:
            raise
        actor.count("timeouts")
        return
    actor.done(at)


async def _watch(actor: Actor, at: Any) -> None:
    await _wait(actor, at)
    news = actor.news(at)
    async for value in actor.handle(at).changes(timeout=actor.patience):
        actor.count("values waited for in tasks")
        if not actor.follow(news, value):
            break
