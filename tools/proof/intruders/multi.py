"""What clients of damaged mutexes do with several of them, in tasks, and as they wait for a value; how they die."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

from wdkmutex_shm import SectionGuard, lock_all, lock_any
from wdkmutex_shm.errors import LockTimeout, WdkMutexError

if TYPE_CHECKING:
    from .clients import Client, Spec

__all__ = ["await_value", "die", "hold_any", "hold_several", "run_tasks"]

_TIMEOUT = 0.3
_MOST = 3


def _some(client: Client, spec: Spec) -> dict[str, tuple[Spec, Any]]:
    """That mutex and some others, by name; with handles that mean different slots."""
    others = client.random.sample(client.specs, client.random.randrange(1, _MOST))
    found = {each.name: (each, client.handle(each)) for each in (spec, *others)}
    places = {(handle.segment, handle.slot_index) for _, handle in found.values()}
    if len(places) < len(found):  # one of them is gone, and another one has its slot
        for name in found:
            client.handles.pop(name, None)
        return {spec.name: (spec, client.handle(spec))}
    return found


def _change(client: Client, spec: Spec, guard: Any) -> None:
    if not isinstance(guard, SectionGuard):
        client.right(spec, guard.value)
        if client.random.random() < 0.7:
            guard.value = spec.make(client.random)


def hold_several(client: Client, spec: Spec) -> None:
    """Change several together. After an error all of them are looked up again."""
    some = _some(client, spec)
    try:
        guards = lock_all(*(handle for _, handle in some.values()), timeout=_TIMEOUT)
        with guards:
            for (each, _), guard in zip(some.values(), guards, strict=True):
                _change(client, each, guard)
            if client.random.random() < 0.2:
                guards.commit()
    except LockTimeout:
        raise
    except WdkMutexError:
        for name in some:
            if name != spec.name:
                client.handles.pop(name, None)
        raise


def hold_any(client: Client, spec: Spec) -> None:
    """Change whichever is free."""
    some = _some(client, spec)
    index, guard = lock_any(*(handle for _, handle in some.values()), timeout=_TIMEOUT)
    with guard:
        _change(client, list(some.values())[index][0], guard)


def await_value(client: Client, spec: Spec) -> None:
    """Wait for another T than the present one, in any of the ways; most often none comes."""
    mutex, timeout = client.handle(spec), client.random.choice((0, 0.001, 0.02))
    choice = client.random.randrange(4)
    if choice == 0:
        with mutex.lock_when(lambda value: True, timeout) as guard:
            _change(client, spec, guard)
    elif choice == 1:
        client.right(spec, mutex.wait_for(lambda value: client.random.random() < 0.5, timeout))
    elif choice == 2:
        with mutex.lock(timeout=_TIMEOUT) as guard:
            _change(client, spec, guard)
            guard.wait_for(lambda value: client.random.random() < 0.3, timeout)
    else:
        for count, value in enumerate(mutex.changes(timeout)):
            client.right(spec, value)
            if count == 1:
                break


def run_tasks(client: Client, spec: Spec) -> None:
    """Two tasks that lock, of which one may be cancelled, and one that waits for a T."""
    mutex = client.handle(spec)

    async def work() -> None:
        async with mutex.lock_async(timeout=_TIMEOUT) as guard:
            await asyncio.sleep(0)
            if guard.value is not None:
                _change(client, spec, guard)

    async def watch() -> None:
        client.right(spec, await mutex.wait_for_async(lambda value: True, timeout=_TIMEOUT))

    async def main() -> None:
        tasks = [asyncio.create_task(work()), asyncio.create_task(work())]
        if spec.kind != "section":
            tasks.append(asyncio.create_task(watch()))
        await asyncio.sleep(0)
        if client.random.random() < 0.3:
            tasks[1].cancel()
        for end in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(end, Exception):
                raise end

    asyncio.run(main())


def die(client: Client, spec: Spec) -> None:
    """A child is killed that holds several: the next one finds what it left, and the notes that the damage forged."""
    some = [handle for _, handle in _some(client, spec).values()]
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(5)
            guards = lock_all(*some, timeout=_TIMEOUT)
            guards.commit()
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    client.counts["deaths"] += 1
    hold_several(client, spec)
