"""What a child finds: run in every child of the matrix, however it was made.

Started by exec it is ``python -m proof.forking.child FD``; what it needs comes through that end of a pipe.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from wdkmutex_shm import LockTimeout, NotOwned, WdkMutexError

__all__ = ["Hold", "Orders", "raised", "run"]

_PATIENCE = 5.0

Orders = tuple[Any, str, "int | None", Any]
"""The mutex, ``free``, ``die`` or ``held``, the pid of the holder, and the T that is committed."""


def run(line: Connection, orders: Orders, guard: Any = None) -> None:
    """Look, say what was found wrong (None if nothing), and go on when told to."""
    mutex, state, holder, committed = orders
    try:
        if state == "held":
            held_child(line, mutex, holder, committed, guard)
        else:
            free_child(line, mutex, die=state == "die")
    except BaseException as error:
        line.send(f"the child failed: {error!r}")


def free_child(line: Connection, mutex: Any, *, die: bool) -> None:
    """The lock is free: take it; then end in order, or die holding it."""
    hold = Hold(mutex, _PATIENCE)
    if die:
        line.send(None)
        os.kill(os.getpid(), signal.SIGKILL)
    hold.add(1)
    hold.release()
    line.send(None)


def held_child(line: Connection, mutex: Any, holder: int | None, committed: Any, guard: Any) -> None:
    """Somebody else holds the lock; when told, wait for it."""
    line.send(_what_is_wrong(mutex, holder, committed, guard))
    line.recv()  # by now, or soon, it is released
    hold = Hold(mutex, _PATIENCE)
    hold.add(1)
    hold.release()
    line.send(None)


def _what_is_wrong(mutex: Any, holder: int | None, committed: Any, guard: Any) -> str | None:
    section = not hasattr(mutex, "peek")
    found = mutex.owner
    if found is None or found.pid != holder:
        return f"the owner is {found}, not {holder}"
    if not section and mutex.peek() != committed:
        return f"peek() says {mutex.peek()!r}, not {committed!r}"
    if guard is not None:
        for what in ("value", "commit", "drop_safe"):
            if not hasattr(type(guard), what):
                continue  # of a section, or of several
            wrong = _refused(functools.partial(_use, guard, what), f"the inherited guard's {what}")
            if wrong:
                return wrong
        try:
            guard.__exit__(None, None, None)
        except NotOwned:
            if not section:  # leaving a section says so, alone or with others
                return "leaving the inherited guard's with raised NotOwned"
    if section:
        wrong = _refused(mutex.leave, "leave()")
        if wrong:
            return wrong
    own = mutex.try_enter() if section else mutex.try_lock()
    if own:
        return "it got the lock"
    try:
        Hold(mutex, 0.02)
        return "it got the lock after waiting"
    except LockTimeout:
        pass
    found = mutex.owner
    if found is None or found.pid != holder:
        return f"afterwards the owner is {found}, not {holder}"
    return None


def _use(guard: Any, what: str) -> None:
    found = getattr(guard, what)
    if callable(found):
        found()


def _refused(act: Callable[[], object], what: str) -> str | None:
    try:
        act()
    except NotOwned:
        return None
    except WdkMutexError as error:
        return f"{what} raised {error!r}"
    return f"{what} works in a child"


def raised(value: bytes, number: int = 1) -> bytes:
    """Return a T whose count is higher."""
    return (int.from_bytes(value[:8], "big") + number).to_bytes(8, "big") + value[8:]


class Hold:
    """A hold of a mutex of any kind."""

    def __init__(self, mutex: Any, timeout: float) -> None:
        self._mutex = mutex
        self.guard: Any = None
        if hasattr(mutex, "peek"):
            self.guard = mutex.lock(timeout)
        else:
            mutex.enter(timeout)

    @property
    def abandoned(self) -> bool:
        """Whether the last holder died."""
        return bool((self.guard or self._mutex).abandoned)

    def add(self, number: int) -> None:
        """Change T: count in its first eight bytes."""
        if self.guard is not None:
            self.guard.value = raised(self.guard.value, number)

    def release(self) -> None:
        """Commit and release."""
        if self.guard is not None:
            self.guard.drop_safe()
        else:
            self._mutex.leave()


def _main() -> None:
    with Connection(int(sys.argv[1])) as line:
        strays = [path for fd in os.listdir("/proc/self/fd") if "wdkm." in (path := _target(fd))]
        orders: Orders = line.recv()
        if strays:
            line.send(f"descriptors of the parent's are open: {strays}")
            return
        run(line, orders)


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


if __name__ == "__main__":
    _main()
