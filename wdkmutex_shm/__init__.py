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

from .core._core import CriticalSection, FastMutex, Guard, KMutex, LockRequest, hooks
from .errors import (
    AlreadyOwned,
    CommitUnknown,
    DaemonError,
    DaemonUnavailable,
    DeadlockError,
    DeadlockLink,
    DowncastError,
    DriverMutexError,
    EngineUnavailable,
    Fenced,
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
    LeaseLost,
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
    ValueTooLarge,
    WdkMutexError,
    WorkerDied,
)
from .objects import handles, homes

TYPE_CHECKING = False  # typing itself takes as long to import as all of this package
if TYPE_CHECKING:
    from typing import Any

    from .base.frozen import freeze_support as freeze_support
    from .base.records import Holder as Holder
    from .base.records import MutexInfo as MutexInfo
    from .base.records import Statistics as Statistics
    from .base.records import Waiter as Waiter
    from .core.box import Box as Box
    from .core.conversions import register_type as register_type
    from .core.irql import Irql as Irql
    from .core.irql import current_irql as current_irql
    from .core.irql import raise_irql as raise_irql
    from .core.irql import signal_handler as signal_handler
    from .grt.facade import Grt as Grt
    from .objects.kinds import MutexType as MutexType
    from .observe.snapshot import anonymous_snapshot as anonymous_snapshot
    from .wait.any_of import Guards as Guards
    from .wait.any_of import SectionGuard as SectionGuard
    from .wait.any_of import lock_all as lock_all
    from .wait.any_of import lock_any as lock_any
    from .wait.value_async import LockWhen as LockWhen

__version__ = "0.1.0"


def _fill_hooks() -> None:
    from ._ready import fill_hooks

    fill_hooks()


# Pickles of handles name it here. It is no name that is loaded at its first use: what raises in pickle's lookup of a
# function, Ctrl-C included, becomes a PicklingError.
_rebuild = handles.rebuild

# The core imports no layer above it. It makes mutexes by these two, and has the rest filled in before the first handle.
hooks.create_anonymous = handles.create_anonymous
hooks.create_anonymous_section = handles.create_anonymous_section
hooks.fill = _fill_hooks

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
    "CommitUnknown",
    "CriticalSection",
    "DaemonError",
    "DaemonUnavailable",
    "DeadlockError",
    "DeadlockLink",
    "DowncastError",
    "DriverMutexError",
    "EngineUnavailable",
    "FastMutex",
    "Fenced",
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
    "LeaseLost",
    "LockRequest",
    "LockWhen",
    "LockTimeout",
    "MutexBusy",
    "MutexDamaged",
    "MutexDestroyed",
    "MutexInfo",
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
    "ValueTooLarge",
    "Waiter",
    "WdkMutexError",
    "WorkerDied",
    "anonymous_snapshot",
    "current_irql",
    "freeze_support",
    "lock_all",
    "lock_any",
    "raise_irql",
    "register_type",
    "signal_handler",
]


# Loaded at first use: who only locks pays for none of these. What is called on a mutex loads nothing.
_LATER = {
    "Box": ".core.box",
    "Grt": ".grt.facade",
    "Guards": ".wait.any_of",
    "Holder": ".base.records",
    "Irql": ".core.irql",
    "LockWhen": ".wait.value_async",
    "MutexInfo": ".base.records",
    "MutexType": ".objects.kinds",
    "SectionGuard": ".wait.any_of",
    "Statistics": ".base.records",
    "Waiter": ".base.records",
    "anonymous_snapshot": ".observe.snapshot",
    "current_irql": ".core.irql",
    "freeze_support": ".base.frozen",
    "lock_all": ".wait.any_of",
    "lock_any": ".wait.any_of",
    "raise_irql": ".core.irql",
    "register_type": ".core.conversions",
    "signal_handler": ".core.irql",
    # Pickles name these, in whichever file they are.
}


def __getattr__(name: str) -> Any:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(module, __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
