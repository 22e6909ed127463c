"""The types of multiprocessing in the storm: what killed workers had of them comes back, and nobody is forgotten."""

from __future__ import annotations

import os
import queue
import struct
import time
import zlib
from typing import TYPE_CHECKING, Any

from wdkmutex_shm import mp
from wdkmutex_shm.mp.process_key import me

from ..base.harness import descriptors
from .book import is_running, undisturbed
from .operations import in_section

if TYPE_CHECKING:
    from .worker import Worker

__all__ = ["QUEUE_SIZE", "Types", "lock", "put", "read_item", "semaphore", "take", "tell", "value", "wait"]

QUEUE_SIZE = 8
_TIMEOUT = 10.0
_SOON = 0.05
_PATIENCE = 3.0
_INSIDE = 2
_LONGEST = "longest wait for a type of multiprocessing, microseconds"
_ITEM = struct.Struct("<IQQ")  # check, who put it, number
_LARGE = 200_000  # bytes: too many for the socket


class Types:
    """One of each, made by the parent of all."""

    def __init__(self, workers: int) -> None:
        context = mp.get_context("fork")
        self.lock = context.Lock()
        self.value = context.Value("Q", 0)
        self.semaphore = context.BoundedSemaphore(_INSIDE)
        self.condition = context.Condition()
        self.queue = context.Queue(QUEUE_SIZE)
        self._numbers = [0]

    def next_number(self) -> int:
        """The number of the next item that this process puts."""
        self._numbers[0] += 1
        return self._numbers[0]

    def leave(self) -> int:
        """At the end of a worker: what it has put is sent. Returns how many descriptors that closes."""
        before = descriptors()
        self.queue.close()
        self.queue.join_thread()
        return before - descriptors()


def lock(worker: Worker) -> None:
    of = worker.world.types.lock
    with undisturbed():
        begun = worker.now()
        if not of.acquire(timeout=_TIMEOUT):
            worker.log.broken("nobody waits for ever", type="Lock")
            return
        worker.waited("Lock", begun, _LONGEST)
        worker.count("abandoned, mp", of.abandoned)
        in_section(worker, of, "lock left", "lock right")
        of.release()


def value(worker: Worker) -> None:
    """A number behind an RLock."""
    number = worker.world.types.value
    with undisturbed():
        begun = worker.now()
        with number.get_lock():
            worker.waited("Value", begun, _LONGEST)
            worker.count("abandoned, mp", number.get_lock().abandoned)
            with number.get_lock():
                number.value += 1


def semaphore(worker: Worker) -> None:
    of, board = worker.world.types.semaphore, worker.board
    with undisturbed():
        begun = worker.now()
        if not of.acquire(timeout=_TIMEOUT):
            worker.log.broken("nobody waits for ever", type="Semaphore")
            return
        worker.waited("Semaphore", begun, _LONGEST)
        board.set_inside(worker.number, os.getpid())
        inside = board.inside()
        if len(inside) > _INSIDE:
            alive = [pid for pid in inside if pid in board.inside() and is_running(pid)]
            if len(alive) > _INSIDE:
                worker.log.broken("a semaphore lets in no more than it counts", pids=str(alive))
        if worker.chance.random() < 0.5:
            time.sleep(0.0005)
        board.set_inside(worker.number, 0)
        of.release()


def tell(worker: Worker) -> None:
    condition = worker.world.types.condition
    with undisturbed():
        begun = worker.now()
        with condition:
            worker.waited("Condition", begun, _LONGEST)
            worker.board.set_word("told", time.monotonic_ns())
            if worker.chance.random() < 0.5:
                condition.notify_all()
            else:
                condition.notify(2)


def wait(worker: Worker) -> None:
    """Be told within two seconds: a herald tells all every few milliseconds."""
    condition = worker.world.types.condition
    with undisturbed(), condition:
        begun = worker.now()
        told = condition.wait_for(lambda: worker.board.word("told") > begun[0], _PATIENCE)
        worker.waited("Condition", begun, _LONGEST)
        if not told:
            worker.count("timeouts")


def put(worker: Worker) -> bool:
    types = worker.world.types
    with undisturbed():
        number = types.next_number()
        filling = bytes(_LARGE if worker.chance.random() < 0.02 else worker.chance.randrange(100))
        rest = _ITEM.pack(0, me(), number)[4:] + filling
        begun = worker.now()
        try:
            types.queue.put(struct.pack("<I", zlib.crc32(rest)) + rest, timeout=_SOON)
        except queue.Full:
            worker.count("timeouts")
            return False
        finally:
            worker.waited("Queue.put", begun, _LONGEST)
    return True


def take(worker: Worker) -> bool:
    with undisturbed():
        begun = worker.now()
        try:
            item = worker.world.types.queue.get(timeout=_SOON)
        except queue.Empty:
            worker.count("timeouts")
            return False
        finally:
            worker.waited("Queue.get", begun, _LONGEST)
        found = read_item(item)
        if found is None:
            worker.log.broken("an item is whole", size=len(item))
        else:
            worker.log.took(0, *found)
    return True


def read_item(item: Any) -> tuple[int, int] | None:
    """Who put it, and its number there; None if it is not whole."""
    try:
        check, putter, number = _ITEM.unpack_from(item)
    except (struct.error, TypeError):
        return None
    return (putter, number) if zlib.crc32(item[4:]) == check else None
