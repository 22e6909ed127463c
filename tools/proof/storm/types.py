"""The types of multiprocessing in the storm: what killed workers had of them comes back, and nobody is forgotten."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

from wdkmutex_shm.mp.process_key import me

from ..base.children import is_running
from .actor import Keeper
from .setup import INSIDE

_TIMEOUT = 10.0
_SOON = 0.05
_ITEM = struct.Struct("<IQQ")  # check, who put it, number
_LARGE = 200_000  # bytes: too many for the socket
_numbers = itertools.count(1)  # of the items that this process puts


@contextlib.contextmanager
def _acquired(worker: Keeper, name: str, of: Any) -> Iterator[None]:
    with worker.timed(name):
        if not of.acquire(timeout=_TIMEOUT):
            worker.broken("nobody waits forever", type=name)
    yield
    of.release()


def lock(worker: Keeper) -> None:
    of = worker.world.lock
    with _acquired(worker, "Lock", of):
        worker.count("abandoned, mp", of.abandoned)
        worker.inside("mp.Lock", of)


def value(worker: Keeper) -> None:
    """A number behind an RLock."""
    number = worker.world.value
    with _acquired(worker, "Value", number.get_lock()):
        worker.count("abandoned, mp", number.get_lock().abandoned)
        with number.get_lock():
            number.value += 1


def semaphore(worker: Keeper) -> None:
    board = worker.world.board
    with _acquired(worker, "Semaphore", worker.world.semaphore):
        board.set_inside(worker.number, os.getpid())
        inside = board.inside()
        if len(inside) > INSIDE:
            alive = [pid for pid in inside if pid in board.inside() and is_running(pid)]
            if len(alive) > INSIDE:
                worker.broken("a semaphore lets in no more than it counts", pids=str(alive))
        if worker.chance.random() < 0.5:
            time.sleep(0.0005)
        board.set_inside(worker.number, 0)


def tell(worker: Keeper) -> None:
    condition = worker.world.condition
    with _acquired(worker, "Condition", condition):
        worker.world.board.set_word("told", time.monotonic_ns())
        if worker.chance.random() < 0.5:
            condition.notify_all()
        else:
            condition.notify(2)


def wait(worker: Keeper) -> None:
    """Be told within two seconds: a herald tells all every few milliseconds."""
    with worker.world.condition, worker.timed("Condition"):
        begun = time.monotonic_ns()
        told = worker.world.condition.wait_for(lambda: worker.world.board.word("told") > begun, worker.patience)
        worker.count("timeouts", not told)


def put(worker: Keeper) -> bool:
    size = _LARGE if worker.chance.random() < 0.02 else worker.chance.randrange(100)
    rest = _ITEM.pack(0, me(), next(_numbers))[4:] + bytes(size)
    with worker.timed("Queue.put"):
        try:
            worker.world.queue.put(struct.pack("<I", zlib.crc32(rest)) + rest, timeout=_SOON)
        except queue.Full:
            worker.count("timeouts")
            return False
    return True


def take(worker: Keeper) -> bool:
    with worker.timed("Queue.get"):
        try:
            item = worker.world.queue.get(timeout=_SOON)
        except queue.Empty:
            worker.count("timeouts")
            return False
    found = read_item(item)
    if found is None:
        worker.broken("an item is whole", size=len(item))
    else:
        worker.took(*found)
    return True


def read_item(item: Any) -> tuple[int, int] | None:
    """Who put it, and its number there; None if it is not whole."""
    try:
        check, putter, number = _ITEM.unpack_from(item)
    except (struct.error, TypeError):
        return None
    return (putter, number) if zlib.crc32(item[4:]) == check else None
