"""Accounts that are changed together: whoever locks all of them finds one sum, and every transfer in all of them.

A transfer moves an amount between two accounts, is counted in a third mutex, and written down for the worker in the
page of a fourth; one of its T is large, others are ints, and a critical section is locked along. So what a killed
worker had published by halves would show in the sum, or in the two counts of transfers, to the next who locks all.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from wdkmutex_shm import CriticalSection, FastMutex, Grt, KMutex, LockTimeout, NotOwned, lock_all

from .book import Book, OopsError, undisturbed
from .ledger import BytesLedger, Page

if TYPE_CHECKING:
    from .worker import Worker

__all__ = ["Bank", "fork", "is_whole", "move", "transfer"]

_TOTAL = 3_000_000
_LARGEST = 1000
_PART = _TOTAL // 3
_FAILS, _TWICE, _NESTED = 0.1, 0.15, 0.15
_ORPHANED = 5.0


class Bank(NamedTuple):
    """Its mutexes: registered and anonymous, of every kind.

    Attributes:
        page: the last transfer of each worker. total: how many transfers there were in all.
        left, right: amounts, as ints. third: an amount beside a filling.
        section: protects nothing.
    """

    page: Book
    total: Book
    left: Book
    right: Book
    third: Book
    section: Book

    @property
    def books(self) -> list[Book]:
        """All of them."""
        return list(self)

    @classmethod
    def make(cls, number: int, workers: int, chance: random.Random) -> Bank:
        """Make the mutexes; ``number`` is that of the first one."""
        ledger = BytesLedger()
        first = ledger.first("bank-page", chance.getrandbits(60), workers)
        Grt.register_fast_mutex("bank-page", first)
        Grt.register_kmutex("bank-total", 0)
        Grt.register_fast_mutex("bank-left", _PART)
        third = FastMutex({"amount": _PART, "filling": b""})
        return cls(
            Book(number, "bank-page", "fast", ledger, None, False),
            Book(number + 1, "bank-total", "k", None, None, False),
            Book(number + 2, "bank-left", "fast", None, None, False),
            Book(number + 3, "bank-right", "k", None, KMutex(_PART), False),
            Book(number + 4, "bank-third", "fast", None, third, False),
            Book(number + 5, "bank-section", "section", None, CriticalSection(), False),
        )


class _Hold:
    """The guards of all of a bank, and what is found there."""

    def __init__(self, worker: Worker, guards: dict[str, Any]) -> None:
        self._worker = worker
        self._bank = worker.world.bank
        self.guards = guards
        self.whole = self.check()

    def check(self) -> bool:
        """Whether all is as the last transfer left it."""
        page = self._worker.verify(self._bank.page, self.guards["page"].value)
        amounts = self.amounts()
        count = self.guards["total"].value
        if page is None:
            return False
        if not is_whole(page, count, amounts):
            self._worker.log.broken("what was published together is seen together", amounts=str(amounts), count=count,
                                    written=str(page.commits))  # fmt: skip
            return False
        return True

    def amounts(self) -> tuple[int, int, int]:
        return self.guards["left"].value, self.guards["right"].value, self.guards["third"].value["amount"]

    def add(self, account: str, amount: int) -> None:
        if account == "third":
            self.guards["third"].value["amount"] += amount
        else:
            self.guards[account].value += amount

    def transfer(self) -> Page | None:
        """Set what a transfer changes; publish nothing."""
        chance, guards = self._worker.chance, self.guards
        source, target = chance.sample(("left", "right", "third"), 2)
        amount = chance.randrange(_LARGEST)
        self.add(source, -amount)
        self.add(target, amount)
        guards["total"].value += 1
        if chance.random() < 0.3:
            guards["third"].value["filling"] = bytes(chance.randrange(200))
        following = self._worker.next(self._bank.page, guards["page"].value)
        if following is None:
            return None
        guards["page"].value = following[0]
        return following[1]


def is_whole(page: Page, count: int, amounts: tuple[int, int, int]) -> bool:
    """Whether what was read in all of them is what some transfer left."""
    return sum(amounts) == _TOTAL and count == sum(page.commits)


def _lock(worker: Worker) -> tuple[Any, dict[str, Any]]:
    """Lock all of the bank, in any order of arguments."""
    bank = worker.world.bank
    named = list(zip(bank._fields, bank.books, strict=True))
    worker.chance.shuffle(named)
    guards = worker.lock_all(*(worker.handle(book) for _, book in named))
    return guards, {name: guard for (name, _), guard in zip(named, guards, strict=True)}


def transfer(worker: Worker) -> None:
    """Look at all accounts and move an amount; now and then twice in one hold, by an inner guard, or in vain."""
    guards, named = _lock(worker)
    page, chance = None, worker.chance
    try:
        with guards:
            hold = _Hold(worker, named)
            if not hold.whole:
                return
            page = hold.transfer()
            if page is None:
                return
            dice = chance.random()
            if dice < _FAILS:
                raise OopsError
            if dice < _FAILS + _TWICE:
                guards.commit()
                worker.done(worker.world.bank.page, page)
                page = hold.transfer()
            elif dice < _FAILS + _TWICE + _NESTED:
                with worker.handle(worker.world.bank.right).lock() as inner:
                    inner.value -= 1
                hold.add("left", 1)
    except OopsError:
        worker.count("rollbacks")
        return
    if page is not None:
        worker.done(worker.world.bank.page, page)


def move(worker: Worker) -> None:
    """Move an amount between the two ints, which a shorter way publishes; the others lock all, and see the sum."""
    bank, amount = worker.world.bank, worker.chance.randrange(-_LARGEST, _LARGEST)
    with worker.lock_all(worker.handle(bank.left), worker.handle(bank.right)) as (left, right):
        left.value -= amount
        right.value += amount


def fork(worker: Worker) -> None:
    """A child that is forked while all are held has none of them, and publishes nothing."""
    guards, named = _lock(worker)
    page = None
    with guards:
        hold = _Hold(worker, named)
        if hold.whole:
            page = hold.transfer()
        with undisturbed():
            parent = os.getpid()
            pid = os.fork()
            if pid == 0:
                try:
                    _inherit(worker, guards, parent)
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)
    if page is not None:
        worker.done(worker.world.bank.page, page)


def _inherit(worker: Worker, guards: Any, parent: int) -> None:
    """In a forked child: nothing can be published with what it inherited, and nothing locked that the parent has."""
    bank = worker.world.bank
    try:
        guards.commit()
        worker.log.broken("a forked child does not own its parent's guards", mutex="bank")
    except NotOwned:
        pass
    with contextlib.suppress(NotOwned):  # the section says so; the others are passed over
        guards.__exit__(None, None, None)
    try:
        with lock_all(*(worker.handle(book) for book in bank.books), timeout=0):
            deadline = time.monotonic() + _ORPHANED  # then the parent has just been killed
            while os.getppid() == parent and time.monotonic() < deadline:
                time.sleep(0.001)
            if os.getppid() == parent:
                worker.log.broken("a forked child cannot have what its parent holds", mutex="bank")
    except LockTimeout:
        pass
