"""A mutex that owns its data, shared by any Python processes on a machine, by name.

:class:`KMutex` and :class:`FastMutex` keep a lock and the T that it protects in named shared memory; the only way to T
is the guard that ``lock()`` returns. A holder killed at any instruction leaves T whole; the next locker acquires the
mutex immediately and sees ``abandoned``. :class:`Grt` tracks mutexes by name for all processes of an instance.

    >>> from wdkmutex_shm import KMutex
    >>> counter = KMutex(0)
    >>> with counter.lock() as guard:
    ...     guard.value += 1
    >>> counter.peek()
    1
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .base.records import Holder, Waiter
from .core._async_request import LockRequest
from .core._guard import Guard
from .core._mutex import FastMutex, KMutex
from .core._section import CriticalSection
from .core.conversions import register_type
from .core.irql import Irql, current_irql, raise_irql, signal_handler
from .errors import (
    AlreadyOwned,
    DaemonError,
    DaemonUnavailable,
    DeadlockError,
    DeadlockLink,
    DowncastError,
    DriverMutexError,
    GrtAlreadyExists,
    GrtDriverMutexError,
    GrtError,
    GrtIsEmpty,
    GrtIsNull,
    InvalidName,
    IrqlNotAPCLevel,
    IrqlTooHigh,
    KernelUnsupported,
    KeyExists,
    KeyNotFound,
    LayoutMismatch,
    LockTimeout,
    MutexBusy,
    MutexDamaged,
    MutexDestroyed,
    NotOwned,
    OtherPidNamespace,
    PagedPoolAllocFailed,
    PoolBroken,
    ProtocolError,
    RuntimeFolderRefused,
    SegmentRefused,
    WdkMutexError,
    WorkerDied,
)
from .objects import homes
from .objects.kinds import MutexType

if TYPE_CHECKING:
    from .base.frozen import freeze_support as freeze_support
    from .base.records import Statistics as Statistics
    from .core.box import Box as Box
    from .grt.facade import Grt as Grt
    from .wait.any_of import Guards as Guards
    from .wait.any_of import SectionGuard as SectionGuard
    from .wait.any_of import lock_all as lock_all
    from .wait.any_of import lock_any as lock_any
    from .wait.value_async import LockWhen as LockWhen

__version__ = "0.1.0"

# What the core keeps beside a slot is guarded by the GIL. A free-threaded Python turns it on by itself when it loads
# the core (none of its modules says that it can do without), unless it was told never to.
if not getattr(sys, "_is_gil_enabled", lambda: True)():  # pragma: no cover - only where there is no GIL
    raise ImportError(
        "wdkmutex_shm needs the GIL, and this interpreter was started without it: remove PYTHON_GIL=0 or "
        "-X gil=0, and a free-threaded Python turns it on when it imports wdkmutex_shm"
    )


def _registration(instance: str) -> homes.Home:
    from .grt.facade import Registration

    return Registration(instance)


homes.set_engine(_registration)

__all__ = [
    "AlreadyOwned",
    "Box",
    "CriticalSection",
    "DaemonError",
    "DaemonUnavailable",
    "DeadlockError",
    "DeadlockLink",
    "DowncastError",
    "DriverMutexError",
    "FastMutex",
    "Grt",
    "GrtAlreadyExists",
    "GrtDriverMutexError",
    "GrtError",
    "GrtIsEmpty",
    "GrtIsNull",
    "Guard",
    "Guards",
    "Holder",
    "InvalidName",
    "Irql",
    "IrqlNotAPCLevel",
    "IrqlTooHigh",
    "KMutex",
    "KernelUnsupported",
    "KeyExists",
    "KeyNotFound",
    "LayoutMismatch",
    "LockRequest",
    "LockWhen",
    "LockTimeout",
    "MutexBusy",
    "MutexDamaged",
    "MutexDestroyed",
    "MutexType",
    "NotOwned",
    "OtherPidNamespace",
    "PagedPoolAllocFailed",
    "PoolBroken",
    "ProtocolError",
    "RuntimeFolderRefused",
    "SectionGuard",
    "SegmentRefused",
    "Statistics",
    "Waiter",
    "WdkMutexError",
    "WorkerDied",
    "current_irql",
    "freeze_support",
    "lock_all",
    "lock_any",
    "raise_irql",
    "register_type",
    "signal_handler",
]


def __getattr__(name: str) -> Any:
    # Loaded at first use: who only locks pays for none of these.
    if name == "Grt":
        from .grt.facade import Grt

        return Grt
    if name == "Box":
        from .core.box import Box

        return Box
    if name == "Statistics":
        from .base.records import Statistics

        return Statistics
    if name in {"Guards", "SectionGuard", "lock_all", "lock_any"}:
        from .wait import any_of

        return getattr(any_of, name)
    if name == "freeze_support":
        from .base.frozen import freeze_support

        return freeze_support
    if name == "LockWhen":
        from .wait.value_async import LockWhen

        return LockWhen
    if name == "_rebuild":
        from .objects.handles import rebuild

        return rebuild
    if name == "_rebuild_error":
        from .engines import driver_errors

        return driver_errors.rebuild
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
