"""What is done to several mutexes at once."""

from __future__ import annotations

import contextlib
from typing import Any

from wdkmutex_shm import SectionGuard

from .actor import Actor, OopsError


def change(actor: Actor, at: Any, guard: Any) -> None:
    """Set the next T of one that is held; what has none is only held."""
    if isinstance(guard, SectionGuard):
        actor.inside(at, guard)
        return
    value = guard.value
    new = actor.next(at, value)
    if new is not value:  # else it was changed in place, or not at all
        guard.value = new


def change_all(actor: Actor, places: tuple[Any, ...], guards: Any) -> None:
    """Set the next T of each."""
    for at, guard in zip(places, guards, strict=True):
        change(actor, at, guard)


def commit_all(actor: Actor, *places: Any) -> None:
    """A change of all of them: the next T in each, or in none."""
    with actor.lock_all(*places) as guards:
        change_all(actor, places, guards)
    actor.done(*places)


def commit_all_while_held(actor: Actor, *places: Any) -> None:
    """The same, published before they are released."""
    guards = actor.lock_all(*places)
    with guards:  # guards that are only dropped are published each by itself
        change_all(actor, places, guards)
        guards.commit()
        guards.drop_safe()
    actor.done(*places)


def fail_all(actor: Actor, *places: Any) -> None:
    """A change of all of them that is rolled back."""
    with contextlib.suppress(OopsError), actor.lock_all(*places) as guards:
        change_all(actor, places, guards)
        actor.count("rollbacks")
        raise OopsError


def commit_any(actor: Actor, *places: Any) -> None:
    """A change of whichever is free."""
    index, guard = actor.lock_any(*places)
    with guard:
        change(actor, places[index], guard)
    actor.done(places[index])
