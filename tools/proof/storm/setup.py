"""All that the processes of a storm share: made before the first of them is forked."""

from __future__ import annotations

import random
from typing import NamedTuple

from wdkmutex_shm import FastMutex, Grt, KMutex

from .bank import Bank
from .board import Board
from .book import Book
from .ledger import BytesLedger, DictLedger, IntLedger, Ledger
from .relay import make_relays
from .types import Types

__all__ = ["KINDS", "World"]

KINDS: tuple[tuple[str, Ledger | None, bool, bool], ...] = (
    # kind, form of T, registered (else anonymous), registered anew now and then
    ("fast", BytesLedger(), True, True),
    ("k", DictLedger(), True, True),
    ("section", None, True, False),
    ("fast", IntLedger(), True, False),
    ("k", BytesLedger(), False, False),
    ("k", IntLedger(), True, False),
    ("fast", DictLedger(), True, False),
    ("k", BytesLedger(), True, True),
)


class World(NamedTuple):
    """What is shared.

    Attributes:
        folder, instance: of the storm.
        workers: how many work at a time.
        board: numbers in shared memory; a row for each worker, and one more for those who help.
        books: mutexes that the workers keep books in.
        bank: mutexes that are locked together.
        relays: mutexes whose next value is waited for.
        types: those of multiprocessing.
    """

    folder: str
    instance: str
    workers: int
    board: Board
    books: list[Book]
    bank: Bank
    relays: list[Book]
    types: Types

    @classmethod
    def make(cls, folder: str, instance: str, workers: int, mutexes: int, chance: random.Random) -> World:
        """Make everything. This process is attached to the instance already."""
        books = [_book(number, workers, chance) for number in range(mutexes)]
        bank = Bank.make(mutexes, workers, chance)
        relays = make_relays(mutexes + len(bank.books))
        return cls(folder, instance, workers, Board(workers + 1), books, bank, relays, Types(workers))


def _book(number: int, workers: int, chance: random.Random) -> Book:
    kind, ledger, registered, renewed = KINDS[number % len(KINDS)]
    name = f"{kind}-{number}"
    if ledger is None:
        Grt.register_critical_section(name)
        return Book(number, name, kind, None, None, False)
    value = ledger.first(name, chance.getrandbits(60), workers)
    if not registered:
        return Book(number, name, kind, ledger, (FastMutex if kind == "fast" else KMutex)(value), False)
    (Grt.register_fast_mutex if kind == "fast" else Grt.register_kmutex)(name, value)
    return Book(number, name, kind, ledger, None, renewed)
