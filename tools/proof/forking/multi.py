"""Ctrl-C in operations on several mutexes, and in waits for a value that is there already."""

from __future__ import annotations

from typing import Any

from wdkmutex_shm import FastMutex, KMutex, lock_all, lock_any

from .interrupts import Case

__all__ = ["SEVERAL"]

_PATIENCE = 1.0
_OLD, _NEW = (1, 2, b"o" * 20), (2, 1, b"n" * 300)


class _Some:
    """Mutexes with their old T."""

    def __init__(self, old: tuple[Any, ...] = _OLD) -> None:
        self.mutexes = [(FastMutex, KMutex)[at % 2](value) for at, value in enumerate(old)]
        self.old = old
        self.new = _NEW[: len(old)]

    def settled(self, done: bool) -> str | None:
        """All are committed or none is, and nobody has a lock."""
        held = [mutex for mutex in self.mutexes if mutex.owner is not None]
        if held:
            return f"locks are held: {held}"
        with lock_all(*self.mutexes, timeout=_PATIENCE) as guards:
            found = tuple(guard.value for guard in guards)
        allowed = (self.new,) if done else (self.old, self.new)
        return None if found in allowed else f"T are {found!r}, done: {done}"

    def end(self) -> None:
        """Take T out."""
        for mutex in self.mutexes:
            mutex.to_owned()


def _transfer(some: _Some) -> None:
    with lock_all(*some.mutexes) as guards:
        for guard, value in zip(guards, some.new, strict=True):
            guard.value = value


def _transfer_while_held(some: _Some) -> None:
    guards = lock_all(*some.mutexes, timeout=_PATIENCE)
    with guards:  # guards that are only dropped are published each by itself
        for guard, value in zip(guards, some.new, strict=True):
            guard.value = value
        guards.commit()
        guards.drop_safe()


def _any(some: _Some) -> None:
    guard: Any
    index, guard = lock_any(*some.mutexes, timeout=_PATIENCE)
    with guard:
        assert index == 0
        guard.value = some.new[0]


def _when(some: _Some) -> None:
    with some.mutexes[0].lock_when(lambda value: value == 1, timeout=_PATIENCE) as guard:
        guard.value = some.new[0]


def _in_guard(some: _Some) -> None:
    with some.mutexes[0].lock() as guard:
        guard.value = some.new[0]
        guard.wait_for(lambda value: value == 2, timeout=_PATIENCE)


def _case(name: str, act: Any, old: tuple[Any, ...] = _OLD) -> Case:
    return Case(name, lambda: _Some(old), act, lambda some, done: some.settled(done), lambda some: some.end())


SEVERAL = (
    _case("lock-all", _transfer),
    _case("lock-all-ints", _transfer, (1, 2)),
    _case("lock-all-while-held", _transfer_while_held),
    _case("lock-any", _any, (1,)),
    _case("lock-when", _when, (1,)),
    _case("wait-in-guard", _in_guard, (1,)),
)
