"""After a storm: the books, the bank, what went through the queue, and what is left in memory."""

from __future__ import annotations

import contextlib
import queue
from collections import Counter
from typing import Any

from wdkmutex_shm import Grt, lock_all
from wdkmutex_shm.base.names import instance_prefix
from wdkmutex_shm.engines.local.client import connect
from wdkmutex_shm.errors import WdkMutexError
from wdkmutex_shm.memory import shm

from ..base.harness import Proof
from .bank import is_whole
from .board import Log
from .book import Book
from .counts import deed
from .ledger import TornError
from .setup import World
from .types import QUEUE_SIZE, read_item

__all__ = ["audit"]

_SOON = 2.0
_MOST_HELD = 6  # locks that a worker has at a time


def audit(proof: Proof, world: World, logs: list[Log]) -> None:
    """Compare what the workers have logged and counted with what there is; they have all ended."""
    deaths = proof.counts["kills"]
    for what, most in (("abandoned", 2), ("abandoned, one of several", _MOST_HELD), ("abandoned, mp", 1)):
        told = proof.counts[what]
        proof.expect(told <= most * deaths, "a lock is abandoned only by a death", deaths=deaths, told=told, of=what)
    _audit_books(proof, world, logs)
    try:
        _audit_bank(proof, world)
    except (TornError, WdkMutexError) as error:
        proof.broken("the bank is whole in the end", error=error)
    _audit_types(proof, world, logs)
    _weigh(proof)


def _audit_books(proof: Proof, world: World, logs: list[Log]) -> None:
    """What every worker has logged last must be in T."""
    logged = [log.commits() for log in logs]
    for book in [*world.books, world.bank.page]:
        if book.ledger is None:
            continue
        try:
            value = _final(book)
            if value is None:
                continue
            page = book.ledger.read(value, book.name)
        except (TornError, WdkMutexError) as error:
            proof.broken("T is whole in the end", mutex=book.name, error=error)
            continue
        for number in range(world.workers):
            known = logged[number].get((book.number, page.epoch), 0)
            ahead = (page.commits[number] - known) % book.ledger.modulus
            proof.expect(
                ahead <= 1,
                "T has every commit that returned, and none that did not",
                mutex=book.name,
                worker=number,
                logged=known,
                found=page.commits[number],
            )
            proof.counts["books audited"] += 1


def _handle(book: Book) -> Any:
    if book.handle is not None:
        return book.handle
    return (Grt.get_fast_mutex if book.kind == "fast" else Grt.get_kmutex)(book.name)


def _final(book: Book) -> object:
    """T in the end; None where the name was just unregistered."""
    if book.handle is not None:
        return book.handle.to_owned()
    if book.renewed and book.name not in Grt.names():
        return None
    with _handle(book).lock(timeout=_SOON) as guard:
        return guard.value


def _audit_bank(proof: Proof, world: World) -> None:
    bank = world.bank
    with lock_all(*map(_handle, bank[:-1]), timeout=_SOON) as (page, count, left, right, third):
        amounts = left.value, right.value, third.value["amount"]
        assert bank.page.ledger is not None
        written = bank.page.ledger.read(page.value, bank.page.name)
        proof.expect(
            is_whole(written, count.value, amounts),
            "what was published together is seen together",
            amounts=str(amounts),
            count=count.value,
            written=str(written),
        )
        proof.counts["transfers in the bank"] = count.value


def _audit_types(proof: Proof, world: World, logs: list[Log]) -> None:
    """A number counts each time that it was raised; an item of the queue comes out once, and few are lost."""
    counts, types = proof.counts, world.types
    done, found = counts[deed("mp.Value")], types.value.value
    most = done + counts["kills"]
    proof.expect(done <= found <= most, "each increment that returned is in the value", counted=done, found=found)
    for name, acquire in (("Lock", types.lock.acquire), ("Semaphore", types.semaphore.acquire)):
        proof.expect(acquire(timeout=_SOON), "what the dead had can be had", type=name)
    left: list[tuple[int, int, int]] = []
    with contextlib.suppress(queue.Empty):
        while True:
            item = read_item(types.queue.get(timeout=0.2))
            if proof.expect(item is not None, "an item is whole") and item is not None:
                left.append((0, *item))
    takers = [[entry[1:] for entry in log.taken()] for log in logs] + [[entry[1:] for entry in left]]
    taken = Counter(entry for taker in takers for entry in taker)
    twice = [entry for entry, times in taken.items() if times > 1]
    proof.expect(not twice, "an item is taken once", twice=str(twice[:5]))
    for taker in takers:
        last: dict[int, int] = {}
        for putter, number in taker:
            proof.expect(
                last.get(putter, 0) < number, "items of a process come in its order", putter=putter, number=number
            )
            last[putter] = number
    lost = counts[deed("mp.Queue: put")] - len(taken)
    counts["items taken"], counts["items lost with a process"] = len(taken), max(0, lost)
    ends = counts["kills"] + counts["interrupts sent"]
    proof.expect(lost <= ends * (QUEUE_SIZE + 1), "only what a process had is lost with it", lost=lost, ends=ends)


def _weigh(proof: Proof) -> None:
    """No slot, no data segment and no daemon more than there are names."""
    with connect(proof.instance, timeout=30) as client:
        client.call("sweep")
        status = client.call("status")
    data = len(shm.listing(instance_prefix(proof.instance) + ".d"))
    names = status["names"]
    proof.expect(status["used"] == names and not status["quarantined"], "no slot is lost", status=status)
    proof.expect(data <= 2 * names, "a mutex has two data segments at most", data=data, names=names)
