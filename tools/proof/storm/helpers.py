"""Two processes that are not killed: one tells of news all the time, the other has a pool whose workers are killed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from wdkmutex_shm import Grt, WorkerDied, mp
from wdkmutex_shm.pool import private

from . import relay
from .board import Log
from .setup import World

__all__ = ["run_helper"]

_EVERY = 0.01
_PATIENCE = 15.0  # seconds within which the tasks of a round must be done
_TASKS = 12
_STEP = 0.002
_POOL = 2


def run_helper(world: World, name: str, row: int, seed: int, parent: int) -> NoReturn:
    """Be one of the helpers, in a forked child, until there is no parent, or it is told by a SIGTERM."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        asked: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
        log = Log(world.folder, row)
        try:
            helpers: dict[str, Callable[..., None]] = {"herald": _herald, "pool": _keep_pool}
            helpers[name](world, row, random.Random(seed), lambda: bool(asked) or os.getppid() != parent, log)
            Grt.detach()
            private.close()
            code = 0
        except BaseException as error:
            traceback.print_exc()
            log.broken("a helper goes on", name=name, error=error)
    finally:
        os._exit(code)


def _herald(world: World, row: int, chance: random.Random, is_over: Callable[[], bool], log: Log) -> None:
    relays = [
        (book.name, book.handle or (Grt.get_fast_mutex if book.kind == "fast" else Grt.get_kmutex)(book.name))
        for book in world.relays
    ]
    while not is_over():
        time.sleep(_EVERY)
        for name, mutex in relays:
            with mutex.lock() as guard:
                relay.add(guard, name)
        with world.types.condition:
            world.board.set_word("told", time.monotonic_ns())
            world.types.condition.notify_all()


def _square(number: int) -> int:
    time.sleep(number % 3 / 1000)
    return number * number


def _keep_pool(world: World, row: int, chance: random.Random, is_over: Callable[[], bool], log: Log) -> None:
    """Rounds of tasks, in which workers are killed: each task has its result, or died with its worker."""
    board = world.board
    pool: Any = mp.get_context("fork").Pool(_POOL)
    while not is_over():
        numbers = [chance.randrange(1000) for _ in range(_TASKS)]
        results = [pool.apply_async(_square, (number,)) for number in numbers]
        deadline, excused = time.monotonic() + _PATIENCE, board.excused()
        while not all(result.ready() for result in results):
            time.sleep(_STEP)
            if time.monotonic() - (board.excused() - excused) / 1e9 > deadline:
                log.broken("a pool goes on", done=sum(result.ready() for result in results), of=_TASKS)
                return
            if chance.random() < 0.1:
                board.count(row, "pool: workers killed", _kill_one(pool, chance))
        for number, result in zip(numbers, results, strict=True):
            try:
                if result.get() != number * number:
                    log.broken("a task has its own result", number=number, found=result.get())
                board.count(row, "pool: tasks done")
            except WorkerDied:
                board.count(row, "pool: tasks that died with their worker")
    pool.close()
    pool.join()


def _kill_one(pool: Any, chance: random.Random) -> bool:
    worker = chance.choice(list(pool._pool) or [None])
    if worker is None or worker.pid is None or not worker.is_alive():
        return False
    with contextlib.suppress(ProcessLookupError):  # it was replaced meanwhile
        os.kill(worker.pid, signal.SIGKILL)
    return True
