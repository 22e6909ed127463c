"""Tasks of an event loop in the storm: they lock among themselves, are cancelled, and die with their process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

from .ledger import Page

__all__ = ["run_tasks"]

_TASKS = 4


def run_tasks(
    mutex: Any, timeout: float, following: Callable[[Any], tuple[Any, Page] | None], done: Callable[[Page], None]
) -> None:
    """Let some tasks change T, one of which is cancelled at once: waiting in line, or holding.

    Args:
        following: of a T, the T to be committed next and what it says; None if nothing is to be done.
        done: called with what it says once it is committed.
    """

    async def work() -> None:
        async with mutex.lock_async(timeout) as guard:
            found = following(guard.value)
            await asyncio.sleep(0)
            if found:
                guard.value = found[0]
        if found:
            done(found[1])

    async def main() -> None:
        tasks = [asyncio.create_task(work()) for _ in range(_TASKS)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
                raise end

    # No Ctrl-C here: it would leave a loop half made or half closed, as in any program.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        asyncio.run(main())
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
