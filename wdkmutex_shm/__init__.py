"""A mutex that owns its data, shared by any Python processes on a machine, by name.

:class:`KMutex` and :class:`FastMutex` keep a lock and the T that it protects in named shared memory; the only way to T
is the guard that ``lock()`` returns. A holder that is killed at any instruction leaves T whole, and the next locker
gets the mutex at once and is told. :class:`Grt` tracks mutexes by name for all processes of an instance.

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

from ._guard import Guard
from ._mutex import FastMutex, KMutex
from ._request import LockRequest
from ._section import CriticalSection
from .conversions import register_type
from .errors import (
    AlreadyOwned,
    DaemonError,
    DaemonUnavailable,
    DeadlockError,
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
from .holder import Holder
from .irql import Irql, current_irql, raise_irql, signal_handler
from .mutex_type import MutexType
from .waits import DeadlockLink, Waiter

if TYPE_CHECKING:
    from .box import Box as Box
    from .facts import Statistics as Statistics
    from .frozen import freeze_support as freeze_support
    from .grt import Grt as Grt
    from .several import Guards as Guards
    from .several import SectionGuard as SectionGuard
    from .several import lock_all as lock_all
    from .several import lock_any as lock_any
    from .values_async import LockWhen as LockWhen

__version__ = "0.1.0"

# What the core keeps beside a slot is guarded by the GIL. A free-threaded Python turns it on by itself when it loads
# the core (none of its modules says that it can do without), unless it was told never to.
if not getattr(sys, "_is_gil_enabled", lambda: True)():  # pragma: no cover - only where there is no GIL
    raise ImportError(
        "wdkmutex_shm needs the GIL, and this interpreter was told to run without it: leave out PYTHON_GIL=0 or "
        "-X gil=0, and a free-threaded Python turns it on when it imports wdkmutex_shm"
    )

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
        from .grt import Grt

        return Grt
    if name == "Box":
        from .box import Box

        return Box
    if name == "Statistics":
        from .facts import Statistics

        return Statistics
    if name in {"Guards", "SectionGuard", "lock_all", "lock_any"}:
        from . import several

        return getattr(several, name)
    if name == "freeze_support":
        from .frozen import freeze_support

        return freeze_support
    if name == "LockWhen":
        from .values_async import LockWhen

        return LockWhen
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
