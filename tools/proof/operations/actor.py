"""What an operation is, and what it needs of whoever does it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from wdkmutex_shm.errors import LockTimeout

T_KINDS = ("fast", "k")
"""Kinds of mutexes that have a T."""
ALL_KINDS = (*T_KINDS, "section")


class OopsError(Exception):
    """What is raised amid a change that must be rolled back."""


class Entered:
    """A critical section that was entered, to be left by ``with``."""

    def __init__(self, section: Any, timeout: float) -> None:
        section.enter(timeout)
        self.abandoned = section.abandoned
        self._section = section

    def __enter__(self) -> Entered:
        return self

    def __exit__(self, *_: object) -> None:
        self._section.leave()


class Actor:
    """Who does operations: it chooses what they are done to and what T comes next, and looks at all that they find.

    A place is the actor's own word for a mutex. What does nothing here is for those who want to know.

    Attributes:
        chance: every choice that it makes.
        timeout: seconds for a lock.
        patience: seconds for a value.
    """

    chance: random.Random
    timeout: float

    @property
    def patience(self) -> float:
        return self.timeout

    def choose(self, kinds: tuple[str, ...], least: int = 1, most: int = 1) -> tuple[Any, ...]:
        """So many different places of these kinds; none where there are too few."""
        raise NotImplementedError

    def handle(self, at: Any) -> Any:
        """The mutex of a place."""
        raise NotImplementedError

    def lock(self, at: Any) -> Any:
        """Lock it: a guard, or what is left by ``with``."""
        raise NotImplementedError

    def lock_all(self, *places: Any) -> Any:
        """Lock all of them."""
        raise NotImplementedError

    def lock_any(self, *places: Any) -> tuple[int, Any]:
        """Lock whichever is free."""
        raise NotImplementedError

    def had(self, at: Any, hold: Any) -> Any:
        """It was locked in a way of the operation's own. Returns the hold."""
        return hold

    def inside(self, at: Any, hold: Any) -> None:
        """What has no T is held."""

    def see(self, at: Any, value: Any) -> None:
        """A T was read."""

    def next(self, at: Any, value: Any) -> Any:
        """The T to be set, given the one that is there; it may be the same object, changed in place."""
        raise NotImplementedError

    def replaces(self, at: Any) -> bool:
        """Whether :meth:`next` gives another object there, and does not change the one that is there."""
        return True

    def spoil(self, at: Any, value: Any) -> Any:
        """A T that nobody must ever find."""
        raise NotImplementedError

    def amount(self, at: Any) -> int:
        """What is to be added to an int."""
        raise NotImplementedError

    def done(self, *places: Any) -> None:
        """What :meth:`next` gave for these places is committed."""

    def news(self, at: Any) -> Any:
        """The predicate of the T that is waited for from now on."""
        raise NotImplementedError

    def arrived(self, news: Any, value: Any) -> None:
        """It has come."""

    def late(self, news: Any) -> None:
        """It has not come in time. Raises, unless that is nobody's fault."""
        raise LockTimeout("what is waited for has not come")

    def follow(self, news: Any, value: Any) -> bool:
        """One of several T that are seen one after the other. Returns whether another one is wanted."""
        raise NotImplementedError

    def mark(self) -> None:
        """What is looked at closely begins here, the second time: ends here."""

    def count(self, what: str, number: int = 1) -> None:
        """Count something."""

    def broken(self, promise: str, **facts: Any) -> None:
        """A promise is broken."""
        raise AssertionError(f"{promise}: {facts}")


def released(actor: Actor, *places: Any) -> None:
    """Whoever is done with them has none of them."""
    for at in places:
        owner = actor.handle(at).owner
        if owner is not None and owner.pid == os.getpid():
            actor.broken("who has released a lock has it no more", owner=str(owner), at=str(at)[:40])


def unchecked(actor: Actor, *places: Any) -> None:
    """The operation looks at everything itself."""


def one(*kinds: str) -> Callable[[Actor], tuple[Any, ...]]:
    """One place of these kinds."""
    return lambda actor: actor.choose(kinds)


def some(*kinds: str, most: int = 4) -> Callable[[Actor], tuple[Any, ...]]:
    """Two places of these kinds, or some more."""
    return lambda actor: actor.choose(kinds, 2, most)


class Operation(NamedTuple):
    """What is done.

    Attributes:
        name: for people, counts and tables.
        do: does it to what was prepared, and returns False if it came to nothing.
        prepare: has the actor choose what it is done to; if nothing is chosen it is not done.
        check: what must hold right after it, besides what the actor looked at.
    """

    name: str
    do: Callable[..., object]
    prepare: Callable[[Any], tuple[Any, ...]] = one(*T_KINDS)
    check: Callable[..., object] = released

    def run(self, actor: Any) -> bool:
        """Prepare, do, and check it. Returns whether it was done to its end."""
        places = self.prepare(actor)
        if places == () and self.prepare is not nothing:
            return False
        if self.do(actor, *places) is False:
            return False
        self.check(actor, *places)
        return True


def nothing(actor: Any) -> tuple[Any, ...]:
    """For what chooses by itself what it is done to."""
    return ()
