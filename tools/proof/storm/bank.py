"""Accounts that are changed together: whoever locks all of them finds one sum, and every transfer in all of them.

A transfer moves an amount between two accounts, is counted in a third mutex, and written down for the worker in the
page of a fourth; one of its T is large, others are ints, and a critical section is locked along. So what a killed
worker had published by halves would show in the sum, or in the two counts of transfers, to the next who locks all.
"""

from __future__ import annotations

from typing import Any

from ..operations.actor import OopsError
from .actor import Keeper
from .ledger import Page
from .setup import TOTAL

_LARGEST = 1000
_FAILS, _TWICE, _NESTED = 0.1, 0.15, 0.15


def is_whole(page: Page, count: int, amounts: tuple[int, int, int]) -> bool:
    """Whether what was read in all of them is what some transfer left."""
    return sum(amounts) == TOTAL and count == sum(page.commits)


def _look(worker: Keeper, guards: dict[str, Any]) -> None:
    """All is as the last transfer left it."""
    page = worker.verify(worker.world.bank.page, guards["page"].value)
    amounts = guards["left"].value, guards["right"].value, guards["third"].value["amount"]
    count = guards["total"].value
    if not is_whole(page, count, amounts):
        promise = "what was published together is seen together"
        worker.broken(promise, amounts=str(amounts), count=count, written=str(page.commits))


def _add(guards: dict[str, Any], account: str, amount: int) -> None:
    if account == "third":
        guards["third"].value["amount"] += amount
    else:
        guards[account].value += amount


def _move(worker: Keeper, guards: dict[str, Any]) -> None:
    """Set what a transfer changes; publish nothing."""
    chance, amount = worker.chance, worker.chance.randrange(_LARGEST)
    source, target = chance.sample(("left", "right", "third"), 2)
    _add(guards, source, -amount)
    _add(guards, target, amount)
    guards["total"].value += 1
    if chance.random() < 0.3:
        guards["third"].value["filling"] = bytes(chance.randrange(200))
    guards["page"].value = worker.next(worker.world.bank.page, guards["page"].value)


def transfer(worker: Keeper) -> None:
    """Look at all accounts and move an amount; now and then twice in one hold, by an inner guard, or rolled back."""
    bank, chance = worker.world.bank, worker.chance
    names = chance.sample(bank._fields, len(bank))
    guards = worker.lock_all(*(getattr(bank, name) for name in names))
    by_name = dict(zip(names, guards, strict=True))
    try:
        with guards:
            _look(worker, by_name)
            _move(worker, by_name)
            dice = chance.random()
            if dice < _FAILS:
                worker.count("rollbacks")
                raise OopsError
            if dice < _FAILS + _TWICE:
                guards.commit()
                worker.done(bank.page)
                _move(worker, by_name)
            elif dice < _FAILS + _TWICE + _NESTED:
                with worker.lock(bank.right) as inner:
                    inner.value -= 1
                _add(by_name, "left", 1)
    except OopsError:
        return
    worker.done(bank.page)


def move(worker: Keeper) -> None:
    """Move an amount between the two ints, which a shorter way publishes; the others lock all, and see the sum."""
    bank, amount = worker.world.bank, worker.chance.randrange(-_LARGEST, _LARGEST)
    with worker.lock_all(bank.left, bank.right) as (left, right):
        left.value -= amount
        right.value += amount
