"""What a child finds: run in every child of the matrix, however it was made.

Started by exec it is ``python -m proof.forking.child FD``; what it needs comes through that end of a pipe.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from wdkmutex_shm import LockTimeout, NotOwned, WdkMutexError

_PATIENCE = 5.0


class Orders(NamedTuple):
    """What a child is told.

    Attributes:
        mutex: the one that it is about.
        state: ``free``, ``die`` or ``held``.
        holder: pid of the process that holds it.
        committed: its T.
    """

    mutex: Any
    state: str
    holder: int | None
    committed: Any


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

    def raise_and_release(self) -> None:
        """Raise the count in T by one, commit and release."""
        if self.guard is not None:
            self.guard.value = raised(self.guard.value)
            self.guard.drop_safe()
        else:
            self._mutex.leave()


def raised(value: bytes) -> bytes:
    """Return a T whose count, its first eight bytes, is higher by one."""
    return (int.from_bytes(value[:8], "big") + 1).to_bytes(8, "big") + value[8:]


def run(line: Connection, orders: Orders, guard: Any = None) -> None:
    """Look, say what was found wrong (None if nothing), and go on when told to."""
    try:
        if orders.state == "held":
            line.send(_what_is_wrong(orders, guard))
            line.recv()  # by now, or soon, the lock is released
        hold = Hold(orders.mutex, _PATIENCE)
        if orders.state == "die":
            line.send(None)
            os.kill(os.getpid(), signal.SIGKILL)
        hold.raise_and_release()
        line.send(None)
    except BaseException as error:
        line.send(f"the child failed: {error!r}")


def _what_is_wrong(orders: Orders, guard: Any) -> str | None:
    """Somebody else holds the lock: nothing that a child inherits is its own."""
    mutex, committed = orders.mutex, orders.committed
    section = not hasattr(mutex, "peek")
    found = mutex.owner
    if found is None or found.pid != orders.holder:
        return f"the owner is {found}, not {orders.holder}"
    if not section and mutex.peek() != committed:
        return f"peek() says {mutex.peek()!r}, not {committed!r}"
    uses: dict[str, Callable[[], object]] = {"leave()": mutex.leave} if section else {}
    for name in ("value", "commit", "drop_safe"):
        if hasattr(type(guard), name):  # else the guard is of a section, or of several
            uses[f"the inherited guard's {name}"] = lambda name=name: _use(guard, name)  # type: ignore[misc]
    for what, use in uses.items():
        try:
            use()
        except NotOwned:
            continue
        except WdkMutexError as error:
            return f"{what} raised {error!r}"
        return f"{what} works in a child"
    if guard is not None:
        try:
            guard.__exit__(None, None, None)
        except NotOwned:
            if not section:  # leaving a section says so, alone or with others
                return "leaving the inherited guard's with raised NotOwned"
    if mutex.try_enter() if section else mutex.try_lock():
        return "it got the lock"
    try:
        Hold(mutex, 0.02)
        return "it got the lock after waiting"
    except LockTimeout:
        pass
    found = mutex.owner
    if found is None or found.pid != orders.holder:
        return f"afterwards the owner is {found}, not {orders.holder}"
    return None


def _use(guard: Any, name: str) -> None:
    found = getattr(guard, name)
    if callable(found):
        found()


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def main() -> None:
    """Be a child that was started by exec."""
    with Connection(int(sys.argv[1])) as line:
        strays = [path for fd in os.listdir("/proc/self/fd") if "wdkm." in (path := _target(fd))]
        orders: Orders = line.recv()
        if strays:
            line.send(f"descriptors of the parent's are open: {strays}")
        else:
            run(line, orders)


if __name__ == "__main__":
    main()
