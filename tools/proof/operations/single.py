"""What is done to one mutex."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from .actor import Actor, OopsError


def commit(actor: Actor, at: Any) -> None:
    """A change that leaves its ``with``."""
    with actor.lock(at) as guard:
        guard.value = actor.next(at, guard.value)
    actor.done(at)


def commit_in_place(actor: Actor, at: Any) -> None:
    """A T that is changed in place and never set."""
    with actor.lock(at) as guard:
        actor.next(at, guard.value)
    actor.done(at)


def commit_nested(actor: Actor, at: Any) -> None:
    """A change within the hold of another one, and one that fails there."""
    with actor.lock(at) as outer:
        outer.value = actor.next(at, outer.value)
        with actor.lock(at) as inner:
            inner.value = inner.value
        fail(actor, at)
    actor.done(at)


def commit_twice(actor: Actor, at: Any) -> None:
    """A commit while the lock is held, and another one."""
    with actor.lock(at) as guard:
        guard.value = actor.next(at, guard.value)
        guard.commit()
        actor.done(at)
        guard.value = actor.next(at, guard.value)
    actor.done(at)


def commit_while_held(actor: Actor, at: Any) -> None:
    """A commit while the lock is held, and nothing more."""
    with actor.lock(at) as guard:
        guard.value = actor.next(at, guard.value)
        guard.commit()
    actor.done(at)


def commit_by_dropping(actor: Actor, at: Any) -> bool:
    """A guard that is forgotten."""
    if not actor.replaces(at):  # an exception would commit half a change in place: that is what ``with`` is for
        return False
    guard = actor.lock(at)
    guard.value = actor.next(at, guard.value)
    with _noticing():
        del guard
    actor.done(at)
    return True


@contextlib.contextmanager
def _noticing() -> Iterator[None]:
    """A Ctrl-C that comes while something is finalized is only reported: raise it afterwards."""
    reported = 0
    before = sys.unraisablehook

    def note(what: object) -> None:
        nonlocal reported
        reported += 1

    sys.unraisablehook = note
    try:
        yield
    finally:
        sys.unraisablehook = before
    if reported:
        raise KeyboardInterrupt


def commit_by_release(actor: Actor, at: Any) -> bool:
    """A guard that is dropped by name; only that is looked at."""
    if not actor.replaces(at):  # as above
        return False
    guard = actor.lock(at)
    guard.value = actor.next(at, guard.value)
    actor.mark()
    guard.drop_safe()
    actor.mark()
    actor.done(at)
    return True


def commit_in_task(actor: Actor, at: Any) -> None:
    """A guard that a task drops; only that is looked at."""

    async def main() -> None:
        guard = await actor.handle(at).lock_async()
        guard.value = actor.next(at, guard.value)
        actor.mark()
        guard.drop_safe()
        actor.mark()

    asyncio.run(main())
    actor.done(at)


def try_lock(actor: Actor, at: Any) -> bool:
    """A look, if nobody else has the lock."""
    guard = actor.handle(at).try_lock()
    if guard is None:
        return False
    with guard:
        actor.see(at, actor.had(at, guard).value)
    return True


def fail(actor: Actor, at: Any) -> None:
    """A change that is rolled back."""
    with contextlib.suppress(OopsError), actor.lock(at) as guard:
        guard.value = actor.spoil(at, guard.value)
        actor.count("rollbacks")
        raise OopsError


def rollback(actor: Actor, at: Any) -> None:
    """A change that is taken back while the lock is held."""
    with actor.lock(at) as guard:
        guard.value = actor.spoil(at, guard.value)
        guard.rollback()
        actor.count("rollbacks")
        actor.see(at, guard.value)


def peek(actor: Actor, at: Any) -> None:
    """A look without the lock."""
    actor.see(at, actor.handle(at).peek())
    actor.count("peeks")


def replace(actor: Actor, at: Any) -> None:
    """Another T in one call."""
    old = actor.handle(at).replace(actor.next(at, None), timeout=actor.timeout)
    if old is not None:  # as one that could not be read
        actor.see(at, old)
    actor.done(at)


def fetch_add(actor: Actor, at: Any) -> None:
    """A number added in one call."""
    actor.see(at, actor.handle(at).fetch_add(actor.amount(at), timeout=actor.timeout))
    actor.done(at)


def to_owned(actor: Actor, at: Any) -> None:
    """The end of a mutex: T is taken out."""
    actor.handle(at).to_owned()
    actor.done(at)


def hold(actor: Actor, at: Any) -> None:
    """What has no T is held, and released; only the release is looked at."""
    with actor.lock(at) as entered:
        actor.inside(at, entered)
        actor.mark()
    actor.mark()


def hold_twice(actor: Actor, at: Any) -> None:
    """What has no T is held, and held once more within."""
    with actor.lock(at) as entered, actor.lock(at):
        actor.inside(at, entered)


def look(actor: Actor, at: Any) -> None:
    """What never waits, whoever has the lock."""
    mutex = actor.handle(at)
    if not repr(mutex) or mutex.statistics().value_bytes < 0:
        actor.broken("a mutex can always be looked at", mutex=mutex.name)
    owner = mutex.owner
    if owner is not None and owner.held_for < 0:
        actor.broken("nobody holds a lock since later than now", owner=str(owner))
