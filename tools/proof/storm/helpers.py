"""Two processes that are not killed: one tells of news all the time, the other has a pool whose workers are killed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any

from wdkmutex_shm import Grt, WorkerDied, mp
from wdkmutex_shm.pool import private

from .board import Log
from .setup import World

_EVERY = 0.01
_PATIENCE = 15.0  # seconds within which the tasks of a round must be done
_TASKS = 12
_STEP = 0.002
_POOL = 2


class Helper:
    """One of them.

    Args:
        world: what it shares with the workers.
        row: where it counts.
        seed: of its choices.
    """

    def __init__(self, world: World, row: int, seed: int) -> None:
        self._world = world
        self._row = row
        self._chance = random.Random(seed)
        self._parent = os.getppid()
        self._asked = False
        self._log = Log(world.folder, row)

    def run(self, name: str) -> None:
        """Go on until there is no parent, or a SIGTERM comes."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._ask)
        try:
            HELPERS[name](self)
            Grt.detach()
            private.close()
        except BaseException as error:
            traceback.print_exc()
            self._log.broken("a helper goes on", name=name, error=error)
            raise

    def _ask(self, number: int, frame: object) -> None:
        self._asked = True

    def _is_over(self) -> bool:
        return self._asked or os.getppid() != self._parent

    def tell_news(self) -> None:
        """Set the next value of every relay, and notify who waits for the condition."""
        relays = [(book, book.handle or book.registered()) for book in self._world.relays]
        condition = self._world.condition
        while not self._is_over():
            time.sleep(_EVERY)
            for book, mutex in relays:
                with mutex.lock() as guard:
                    now = time.monotonic_ns()
                    guard.value = [*guard.value, now][-book.kept :] if book.kept > 1 else now
            with condition:
                self._world.board.set_word("told", time.monotonic_ns())
                condition.notify_all()

    def keep_pool(self) -> None:
        """Rounds of tasks, in which workers are killed: each task has its result, or died with its worker."""
        board, chance = self._world.board, self._chance
        pool: Any = mp.get_context("fork").Pool(_POOL)
        while not self._is_over():
            numbers = [chance.randrange(1000) for _ in range(_TASKS)]
            results = [pool.apply_async(_square, (number,)) for number in numbers]
            deadline, excused = time.monotonic() + _PATIENCE, board.excused()
            while not all(result.ready() for result in results):
                time.sleep(_STEP)
                if time.monotonic() - (board.excused() - excused) / 1e9 > deadline:
                    self._log.broken("a pool goes on", done=sum(result.ready() for result in results), of=_TASKS)
                    return
                if chance.random() < 0.1:
                    board.count(self._row, "pool: workers killed", _kill_one(pool, chance))
            for number, result in zip(numbers, results, strict=True):
                try:
                    if result.get() != number * number:
                        self._log.broken("a task has its own result", number=number, found=result.get())
                    board.count(self._row, "pool: tasks done")
                except WorkerDied:
                    board.count(self._row, "pool: tasks that died with their worker")
        pool.close()
        pool.join()


HELPERS: dict[str, Callable[[Helper], None]] = {"herald": Helper.tell_news, "pool": Helper.keep_pool}


def run_helper(name: str, world: World, row: int, seed: int) -> None:
    """Be one of them, in a forked child."""
    Helper(world, row, seed).run(name)


def _square(number: int) -> int:
    time.sleep(number % 3 / 1000)
    return number * number


def _kill_one(pool: Any, chance: random.Random) -> bool:
    worker = chance.choice(list(pool._pool) or [None])
    if worker is None or worker.pid is None or not worker.is_alive():
        return False
    with contextlib.suppress(ProcessLookupError):  # it was replaced meanwhile
        os.kill(worker.pid, signal.SIGKILL)
    return True
