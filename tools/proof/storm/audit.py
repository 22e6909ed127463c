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
from .ledger import TornError
from .setup import QUEUE_SIZE, Book, World
from .table import done
from .types import read_item

_SOON = 2.0
_MOST_HELD = 6  # locks that a worker has at a time


def audit(proof: Proof, world: World, logs: list[Log]) -> None:
    """Compare what the workers have logged and counted with what there is; they have all ended."""
    deaths = proof.counts["kills"]
    for what, most in (("abandoned", 2), ("abandoned, one of several", _MOST_HELD), ("abandoned, mp", 1)):
        told = proof.counts[what]
        proof.expect(told <= most * deaths, "a lock is abandoned only by a death", deaths=deaths, told=told, of=what)
    logged = [log.commits() for log in logs]
    for book in [*world.books, world.bank.page]:
        try:
            _audit_book(proof, world.workers, book, logged)
        except (TornError, WdkMutexError) as error:
            proof.broken("T is whole in the end", mutex=book.name, error=error)
    try:
        _audit_bank(proof, world)
    except (TornError, WdkMutexError) as error:
        proof.broken("the bank is whole in the end", error=error)
    _audit_numbers(proof, world)
    _audit_items(proof, world, logs)
    _weigh(proof)


def _audit_book(proof: Proof, workers: int, book: Book, logged: list[dict[tuple[int, int], int]]) -> None:
    """What every worker has logged last must be in T."""
    if book.ledger is None or (book.renewed and book.name not in Grt.names()):
        return
    if book.handle is not None:
        value = book.handle.to_owned()
    else:
        with book.registered().lock(timeout=_SOON) as guard:
            value = guard.value
    page = book.ledger.read(value, book.name)
    for number in range(workers):
        known, found = logged[number].get((book.number, page.epoch), 0), page.commits[number]
        promise = "T has every commit that returned, and none that did not"
        ahead = (found - known) % book.ledger.modulus
        proof.expect(ahead <= 1, promise, mutex=book.name, worker=number, logged=known, found=found)
        proof.counts["books audited"] += 1


def _audit_bank(proof: Proof, world: World) -> None:
    bank = world.bank
    mutexes: list[Any] = [book.handle or book.registered() for book in bank[:-1]]
    with lock_all(*mutexes, timeout=_SOON) as (page, count, left, right, third):
        amounts = left.value, right.value, third.value["amount"]
        assert bank.page.ledger is not None
        written = bank.page.ledger.read(page.value, bank.page.name)
        promise, whole = "what was published together is seen together", is_whole(written, count.value, amounts)
        proof.expect(whole, promise, amounts=str(amounts), count=count.value, written=str(written))
        proof.counts["transfers in the bank"] = count.value


def _audit_numbers(proof: Proof, world: World) -> None:
    """A number counts each time that it was raised; what the dead had can be acquired."""
    counted, found = proof.counts[done("mp.Value")], world.value.value
    most = counted + proof.counts["kills"]
    whole = counted <= found <= most
    proof.expect(whole, "each increment that returned is in the value", counted=counted, found=found)
    for name, acquire in (("Lock", world.lock.acquire), ("Semaphore", world.semaphore.acquire)):
        proof.expect(acquire(timeout=_SOON), "what the dead had can be had", type=name)


def _audit_items(proof: Proof, world: World, logs: list[Log]) -> None:
    """An item of the queue comes out once, and few are lost."""
    counts = proof.counts
    takers = [[entry[1:] for entry in log.taken()] for log in logs]
    left: list[tuple[int, int]] = []
    with contextlib.suppress(queue.Empty):
        while True:
            item = read_item(world.queue.get(timeout=0.2))
            if proof.expect(item is not None, "an item is whole") and item is not None:
                left.append(item)
    takers.append(left)
    taken = Counter(entry for taker in takers for entry in taker)
    twice = [entry for entry, times in taken.items() if times > 1]
    proof.expect(not twice, "an item is taken once", twice=str(twice[:5]))
    for taker in takers:
        last: dict[int, int] = {}
        for putter, number in taker:
            in_order = last.get(putter, 0) < number
            proof.expect(in_order, "items of a process come in its order", putter=putter, number=number)
            last[putter] = number
    lost = counts[done("mp.Queue: put")] - len(taken)
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
