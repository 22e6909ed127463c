"""The interrupt request level of a thread: what it may do now.

As in a Windows kernel driver, a thread has a level, and operations are allowed only up to one:

========  =====  =======================================================================================
level     value  here
========  =====  =======================================================================================
PASSIVE       0  the normal level
APC           1  a FastMutex is held
DISPATCH      2  the thread must not block: in an event loop (asyncio, Trio) or a wrapped signal handler, or told so
========  =====  =======================================================================================

Creating: KMutex at any level, FastMutex up to DISPATCH. A blocking lock of any kind: up to APC. A lock that does not
wait: KMutex and CriticalSection up to DISPATCH, FastMutex up to APC. See the remarks on IRQL of
KeWaitForSingleObject, ExAcquireFastMutex and ExTryToAcquireFastMutex in the Windows driver documentation.

``lock_async()`` waits at any level, because the thread does not; its guard neither raises the level nor asks for one.
"""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Callable
from enum import IntEnum
from functools import wraps
from types import TracebackType
from typing import ParamSpec, TypeVar

from ..errors import IrqlTooHigh, NotOwned
from ._core import current_level, raised_level, set_raised_level

__all__ = ["Irql", "current_irql", "raise_irql", "signal_handler"]

P = ParamSpec("P")
R = TypeVar("R")

_HIGHEST = 15


class Irql(IntEnum):
    """The levels with a meaning in this package. Any int from 0 to 15 is a level."""

    PASSIVE = 0
    APC = 1
    DISPATCH = 2


def current_irql() -> int:
    """Return the effective level of the calling thread: the raised level, APC while it holds a FastMutex, DISPATCH
    inside an event loop; the highest level that applies. Up to 2 it equals a member of :class:`Irql`.
    """
    level = current_level()
    return Irql(level) if level <= Irql.DISPATCH else level


class raise_irql:  # noqa: N801 - reads as the routine that it stands for
    """Context manager that raises the calling thread's level (KeRaiseIrql) and lowers it again (KeLowerIrql).

    Args:
        level: the new level, from the current one up to 15.

    Raises:
        ValueError: ``level`` is not between 0 and 15.
        IrqlTooHigh: the thread is already at a higher level (when entered).
        NotOwned: entered in one thread and left in another.
    """

    def __init__(self, level: int) -> None:
        if not 0 <= level <= _HIGHEST:
            raise ValueError(f"an IRQL is between 0 and {_HIGHEST}, not {level}")
        self.level = int(level)
        self._saved: list[tuple[int, int]] = []

    def __enter__(self) -> raise_irql:
        current = current_level()
        if self.level < current:
            raise IrqlTooHigh(
                f"cannot raise the IRQL to {self.level}: the thread is already at {current}",
                operation="raise_irql",
                level=current,
                limit=self.level,
            )
        self._saved.append((get_ident(), raised_level()))
        set_raised_level(self.level)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ident, level = self._saved[-1]
        if ident != get_ident():  # which a forked child's thread has from its parent, together with the level
            raise NotOwned("raise_irql was entered in another thread; that thread's level is unchanged")
        self._saved.pop()
        set_raised_level(level)


def signal_handler(handler: Callable[P, R]) -> Callable[P, R]:
    """Wrap a Python signal handler so that it runs at DISPATCH: ``signal.signal(SIGTERM, signal_handler(handler))``.

    A handler runs between two bytecodes of the main thread, which may hold the same lock that the handler needs: that
    wait would never end. In a wrapped handler a blocking lock raises IrqlTooHigh immediately, contended or not. An
    error of a handler is raised in the interrupted code of the main thread. ``KMutex.try_lock()`` and
    ``CriticalSection.try_enter()`` are allowed; if the interrupted thread holds the mutex, they return an inner hold
    with the uncommitted T.

    The previous level is restored however the handler ends. Handlers may interrupt each other and may run inside an
    event loop. Works as a decorator; a handler that is called directly also runs at DISPATCH.

    Args:
        handler: any callable; its arguments and return value are passed through.
    """

    @wraps(handler)
    def at_dispatch(*args: P.args, **kwargs: P.kwargs) -> R:
        level = raised_level()
        try:
            # In here, because another signal's handler may raise as soon as the level is set.
            set_raised_level(max(level, Irql.DISPATCH))
            return handler(*args, **kwargs)
        finally:
            set_raised_level(level)

    return at_dispatch
