"""All that the processes of a storm share: made before the first of them is forked."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from wdkmutex_shm import CriticalSection, FastMutex, Grt, KMutex, mp

from .board import Board
from .ledger import BytesLedger, DictLedger, IntLedger, Ledger

TOTAL = 3_000_000
"""The sum of the amounts in the bank."""
QUEUE_SIZE = 8
INSIDE = 2
"""How many a semaphore lets in."""

KINDS: tuple[tuple[str, Ledger | None, bool, bool], ...] = (
    # kind, form of T, registered (else anonymous), registered again now and then
    ("fast", BytesLedger(), True, True),
    ("k", DictLedger(), True, True),
    ("section", None, True, False),
    ("fast", IntLedger(), True, False),
    ("k", BytesLedger(), False, False),
    ("k", IntLedger(), True, False),
    ("fast", DictLedger(), True, False),
    ("k", BytesLedger(), True, True),
)


class Book(NamedTuple):
    """A mutex of the storm.

    Attributes:
        number: of it.
        name: registered name; of an anonymous one, for its ledger.
        kind: ``fast``, ``k`` or ``section``.
        ledger: form of its T; None for one that keeps no book.
        handle: of an anonymous one, else None.
        renewed: whether it is registered again now and then.
        kept: how many times of its last commits are its T, 0 if that is something else.
    """

    number: int
    name: str
    kind: str
    ledger: Ledger | None = None
    handle: Any = None
    renewed: bool = False
    kept: int = 0

    def registered(self) -> Any:
        """The registered mutex of that name."""
        if self.kind == "section":
            return Grt.get_critical_section(self.name)
        return (Grt.get_fast_mutex if self.kind == "fast" else Grt.get_kmutex)(self.name)

    def register(self, value: Any, *, checked: bool = False) -> None:
        """Register it, with that T."""
        if self.kind == "section":
            Grt.register_critical_section(self.name)
        elif self.kind == "fast":
            (Grt.register_fast_mutex_checked if checked else Grt.register_fast_mutex)(self.name, value)
        else:
            (Grt.register_kmutex_checked if checked else Grt.register_kmutex)(self.name, value)

    def first(self, workers: int, chance: random.Random) -> Any:
        """Its first T."""
        return self.ledger.first(self.name, chance.getrandbits(60), workers) if self.ledger is not None else None


class Bank(NamedTuple):
    """Mutexes that are locked together: registered and anonymous, of every kind.

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


class World(NamedTuple):
    """What is shared.

    Attributes:
        folder, instance: of the storm.
        workers: how many work at a time.
        board: numbers in shared memory; a row for each worker, and one more for those who help.
        books: mutexes that the workers keep books in.
        relays: mutexes whose T are the last times at which somebody committed one. So who waited for a value that is
            newer than its wait can tell when the first of those was made, and how long it took to be told of it.
        lock, value, semaphore, condition, queue: types of multiprocessing.
    """

    folder: str
    instance: str
    workers: int
    board: Board
    books: list[Book]
    bank: Bank
    relays: list[Book]
    lock: Any
    value: Any
    semaphore: Any
    condition: Any
    queue: Any


def make_world(
    folder: str, instance: str, workers: int, mutexes: int, chance: random.Random, counted: Sequence[str]
) -> World:
    """Make everything. This process is attached to the instance already."""
    books = []
    for number in range(mutexes):
        kind, ledger, registered, renewed = KINDS[number % len(KINDS)]
        book = Book(number, f"{kind}-{number}", kind, ledger, None, renewed)
        value = book.first(workers, chance)
        if registered:
            book.register(value)
        else:
            book = book._replace(handle=(FastMutex if kind == "fast" else KMutex)(value))
        books.append(book)
    part = TOTAL // 3
    bank = Bank(
        Book(mutexes, "bank-page", "fast", BytesLedger()),
        Book(mutexes + 1, "bank-total", "k"),
        Book(mutexes + 2, "bank-left", "fast"),
        Book(mutexes + 3, "bank-right", "k", handle=KMutex(part)),
        Book(mutexes + 4, "bank-third", "fast", handle=FastMutex({"amount": part, "filling": b""})),
        Book(mutexes + 5, "bank-section", "section", handle=CriticalSection()),
    )
    for book, value in zip(bank, (bank.page.first(workers, chance), 0, part), strict=False):
        book.register(value)
    now = time.monotonic_ns()
    relays = [  # the T of one stands in its slot, of another in a data segment
        Book(mutexes + 6, "relay-short", "k", kept=6),
        Book(mutexes + 7, "relay-long", "fast", handle=FastMutex([now]), kept=24),
        Book(mutexes + 8, "relay-count", "k", handle=KMutex(now), kept=1),
    ]
    relays[0].register([now])
    context = mp.get_context("fork")
    types = context.Lock(), context.Value("Q", 0), context.BoundedSemaphore(INSIDE), context.Condition()
    board = Board(workers + 1, counted)
    return World(folder, instance, workers, board, books, bank, relays, *types, context.Queue(QUEUE_SIZE))
