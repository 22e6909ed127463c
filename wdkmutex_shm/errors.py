"""Every error that this package raises.

Two branches hang below :class:`WdkMutexError`: :class:`DriverMutexError` for a mutex and its memory, :class:`GrtError`
for names and the daemon, and :class:`GrtDriverMutexError` below both; and beside them :class:`WorkerDied` and
:class:`PoolBroken`, for the workers of a pool. Where a built-in exception means the same, the class also derives from
it, so ``except TimeoutError`` and ``except RuntimeError`` around existing lock code keep working.

Each error carries its facts as attributes (``None`` where a fact does not apply) and survives pickling, so that
it can cross from a pool worker to its parent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .observe.waiters import DeadlockLink

__all__ = [
    "AlreadyOwned",
    "DaemonError",
    "DaemonUnavailable",
    "DeadlockError",
    "DowncastError",
    "DriverMutexError",
    "GrtAlreadyExists",
    "GrtDriverMutexError",
    "GrtError",
    "GrtIsEmpty",
    "GrtIsNull",
    "InvalidName",
    "IrqlNotAPCLevel",
    "IrqlTooHigh",
    "KernelUnsupported",
    "KeyExists",
    "KeyNotFound",
    "LayoutMismatch",
    "LockTimeout",
    "MutexBusy",
    "MutexDamaged",
    "MutexDestroyed",
    "NotOwned",
    "OtherPidNamespace",
    "PagedPoolAllocFailed",
    "PoolBroken",
    "ProtocolError",
    "RuntimeFolderRefused",
    "SegmentRefused",
    "WdkMutexError",
    "WorkerDied",
]


def _rebuild(cls: type[WdkMutexError], message: str, facts: dict[str, Any]) -> WdkMutexError:
    return cls(message, **facts)


class WdkMutexError(Exception):
    """Base of all errors of this package.

    Attributes:
        name: the mutex, segment, instance or path that the error is about, if it has a name.
        facts: all attributes of this error as a dict.
    """

    name: str | None = None
    facts: dict[str, Any]

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.facts = facts
        for key, value in facts.items():
            setattr(self, key, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args[0] if self.args else "", self.facts)


class DriverMutexError(WdkMutexError):
    """Base of the errors of one mutex or of the memory that it lives in.

    Attributes:
        owner_pid: process that holds (or held) the lock, if that is known.
        owner_tid: its thread (Linux thread id).
    """

    owner_pid: int | None = None
    owner_tid: int | None = None


class IrqlTooHigh(DriverMutexError):
    """The thread runs at an IRQL at which this operation is not allowed.

    Attributes:
        level: the thread's level.
        limit: the highest level at which the operation is allowed.
        operation: the operation that was refused.
    """

    level: int | None = None
    limit: int | None = None
    operation: str | None = None


class IrqlNotAPCLevel(DriverMutexError):
    """A FastMutex is released with ``drop_safe`` at another level than APC.

    Attributes:
        level: the thread's level.
        operation: the operation that was refused.
    """

    level: int | None = None
    operation: str | None = None


class PagedPoolAllocFailed(DriverMutexError, MemoryError):
    """Shared memory, or what is needed to map it, could not be had; what was there before still stands.

    Attributes:
        requested: bytes that were asked for.
        errno: the reason of the operating system (``ENOSPC``, ``EMFILE``, ...).
    """

    requested: int | None = None
    errno: int | None = None


class LockTimeout(DriverMutexError, TimeoutError):
    """The lock was not had in time.

    Attributes:
        timeout: seconds that were allowed.
        held_for: seconds that the present owner has held it, at least.
        waiters: how many others were waiting for it, for more than a millisecond.
    """

    timeout: float | None = None
    held_for: float | None = None
    waiters: int | None = None


class DeadlockError(DriverMutexError, RuntimeError):
    """This wait would never end: whoever holds the mutex waits, in a circle, for what this thread holds.

    Raised in the thread that closed the circle, the one whose wait began last. Nothing was released: leaving its
    ``with`` blocks lets the others go on.

    Attributes:
        chain: tuple of :class:`~wdkmutex_shm.DeadlockLink`, this thread first; each waits for what the next one holds,
            and the last one for what the first one holds.
    """

    chain: tuple[DeadlockLink, ...] = ()


class AlreadyOwned(DriverMutexError, RuntimeError):
    """The calling thread, or task, holds this mutex already; waiting for it would never end."""


class NotOwned(DriverMutexError, RuntimeError):
    """The calling thread, or task, does not hold what it wants to use or release.

    Raised by a guard after its release, in another thread or task than its holder, or in a forked child.
    """


class KernelUnsupported(DriverMutexError, OSError):
    """What no lock can do without is refused by the kernel, or by a filter in front of it, or there is no /proc.

    Attributes:
        system_call: the name of what is refused, None if it is /proc.
        errno: the error of the attempt, 0 if there was none.
    """

    system_call: str | None = None
    errno: int | None = None

    __str__ = Exception.__str__


class MutexBusy(DriverMutexError, RuntimeError):
    """The operation consumes the mutex and cannot, because a lock on it is held."""


class MutexDestroyed(DriverMutexError, RuntimeError):
    """The mutex of this handle does not exist any more: destroyed, overwritten, unregistered or moved out."""


class MutexDamaged(DriverMutexError):
    """The bytes in shared memory are not what this package wrote there."""


class LayoutMismatch(DriverMutexError):
    """The segment was made by another layout version, C library, word size, boot or pid namespace.

    Attributes:
        field: what differs.
        found: the segment's value.
        expected: ours.
    """

    field: str | None = None
    found: Any = None
    expected: Any = None


class OtherPidNamespace(LayoutMismatch):
    """The segment was made in another pid namespace (container), or boot: the pids in it mean nothing here.

    A daemon takes over a pool of which nobody alive has a part; this says that somebody has, or that no daemon of this
    namespace was started since.
    """


class SegmentRefused(DriverMutexError, PermissionError):
    """A segment of that name exists and is not ours to use.

    Attributes:
        owner_uid: the user who owns it.
    """

    owner_uid: int | None = None

    __str__ = Exception.__str__


class GrtError(WdkMutexError):
    """Base of the errors of names and of the daemon.

    Attributes:
        instance: the instance of the Grt that was asked.
    """

    instance: str | None = None


class GrtDriverMutexError(GrtError, DriverMutexError):
    """A call to the Grt failed with an error of a mutex or its memory: the crate's ``GrtError::DriverMutexError(e)``.

    What is raised is the error that it was, such as :class:`PagedPoolAllocFailed`, and this one as well: ``except
    GrtError`` around a registration misses no full pool, and ``except PagedPoolAllocFailed`` catches it as ever.
    """


class GrtAlreadyExists(GrtError, RuntimeError):
    """``Grt.init`` was called a second time in this process."""


class GrtIsNull(GrtError, RuntimeError):
    """There is no Grt: none was started, or it was destroyed."""


class GrtIsEmpty(GrtError, LookupError):
    """A name was looked up in a Grt that holds no mutex at all."""


class KeyExists(GrtError, LookupError):
    """The name is taken and the registration was a checked one."""


class KeyNotFound(GrtError, LookupError):
    """No mutex has that name."""


class DowncastError(GrtError, TypeError):
    """The mutex is of another kind, or protects another T, than was asked for.

    Attributes:
        found: what is registered.
        wanted: what was asked for.
    """

    found: str | None = None
    wanted: str | None = None


class InvalidName(GrtError, ValueError):
    """A name that no mutex, or no instance, can have."""


class DaemonError(GrtError):
    """Base of the errors between a process and the daemon."""


class DaemonUnavailable(DaemonError, ConnectionError):
    """The daemon of the instance does not answer. Mutexes that this process has already go on working.

    Attributes:
        path: the socket that was tried.
    """

    path: str | None = None

    __str__ = Exception.__str__


class ProtocolError(DaemonError):
    """A frame or message that the protocol does not allow."""


class RuntimeFolderRefused(DaemonError, PermissionError):
    """The folder for sockets is not safe to use: another owner, other permissions, a link, or a path too long.

    Attributes:
        path: the folder or socket path.
    """

    path: str | None = None

    __str__ = Exception.__str__


class WorkerDied(WdkMutexError, RuntimeError):
    """The process of a pool that worked on a task died before it gave the result. The task may have had effects.

    Attributes:
        pid: the process.
        exitcode: how it ended: minus the number of the signal that killed it, or what it passed to ``os._exit()``.
    """

    pid: int | None = None
    exitcode: int | None = None


class PoolBroken(WdkMutexError, RuntimeError):
    """The workers of a pool died as they started, one after the other, and it starts no more. All of its tasks fail so.

    It gives up after twice as many in a row as it has workers, at least four; one that was killed by SIGKILL counts an
    eighth. Correct what the traceback or the exit code tells, and make another pool.

    Attributes:
        pid: the last of them. exitcode: how it ended, as of :class:`WorkerDied`.
        traceback: what its initializer raised, as text; None if that is not known.
    """

    pid: int | None = None
    exitcode: int | None = None
    traceback: str | None = None
