"""Every error that this package raises.

Two branches hang below :class:`WdkMutexError`: :class:`DriverMutexError` for a mutex and its memory, :class:`GrtError`
for names and the daemon; :class:`GrtDriverMutexError` belongs to both. Beside them are :class:`WorkerDied` and
:class:`PoolBroken`, for the workers of a pool. If a built-in exception has the same meaning, the class also derives
from it, so ``except TimeoutError`` and ``except RuntimeError`` around existing lock code keep working.

Each error carries its facts as attributes (``None`` if a fact does not apply) and can be pickled, so a pool worker can
pass it to its parent.
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False  # typing itself takes as long to import as all of this package
if TYPE_CHECKING:
    from typing import Any, NamedTuple

__all__ = [
    "AlreadyOwned",
    "CommitUnknown",
    "DaemonError",
    "DaemonUnavailable",
    "DeadlockError",
    "DowncastError",
    "DriverMutexError",
    "EngineUnavailable",
    "Fenced",
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
    "LeaseLost",
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
    "ValueTooLarge",
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
    """Base of the errors of a mutex or of its memory.

    Attributes:
        owner_pid: process that holds (or held) the lock, if known.
        owner_tid: its thread (Linux thread id).
    """

    owner_pid: int | None = None
    owner_tid: int | None = None


class IrqlTooHigh(DriverMutexError):
    """The IRQL of the thread is too high for this operation.

    Attributes:
        level: the thread's level.
        limit: the highest level at which the operation is allowed.
        operation: the operation that was refused.
    """

    level: int | None = None
    limit: int | None = None
    operation: str | None = None


class IrqlNotAPCLevel(DriverMutexError):
    """``drop_safe`` was called on the guard of a FastMutex at a level other than APC.

    Attributes:
        level: the thread's level.
        operation: the operation that was refused.
    """

    level: int | None = None
    operation: str | None = None


class PagedPoolAllocFailed(DriverMutexError, MemoryError):
    """Shared memory, or a resource needed to map it, could not be allocated; the previous T is unchanged.

    Attributes:
        requested: number of bytes requested.
        errno: the error of the operating system (``ENOSPC``, ``EMFILE``, ...).
    """

    requested: int | None = None
    errno: int | None = None


class LockTimeout(DriverMutexError, TimeoutError):
    """The lock was not acquired in time.

    Attributes:
        timeout: seconds allowed.
        held_for: how long the current owner has held the lock, in seconds; a lower bound.
        waiters: number of others that had waited for it for more than a millisecond.
    """

    timeout: float | None = None
    held_for: float | None = None
    waiters: int | None = None


if TYPE_CHECKING:

    class DeadlockLink(NamedTuple):
        pid: int
        tid: int
        thread: str
        command: str
        holds: str
        waits_for: str
        waited: float

else:
    DeadlockLink = namedtuple("DeadlockLink", "pid tid thread command holds waits_for waited")

DeadlockLink.__doc__ = """One thread in a cycle of threads that wait for each other.

Attributes:
    pid, tid, thread, command: the thread, as in :class:`~wdkmutex_shm.Waiter`.
    holds: name of the mutex that it holds and that the previous thread in the cycle waits for.
    waits_for: name of the mutex that it waits for and that the next thread in the cycle holds.
    waited: seconds since its wait began.

An anonymous mutex has no name; it is described by its kind, its place, and the process that made it.
"""


class DeadlockError(DriverMutexError, RuntimeError):
    """This wait would never end: the holder of the mutex waits, in a cycle, for a lock of this thread.

    Raised in the thread that closed the cycle, the one whose wait began last. Nothing was released; when this thread
    leaves its ``with`` blocks, the others continue.

    Attributes:
        chain: tuple of :class:`~wdkmutex_shm.DeadlockLink`, this thread first. Each thread waits for a lock of the
            next one, and the last for a lock of the first.
    """

    chain: tuple[DeadlockLink, ...] = ()


class AlreadyOwned(DriverMutexError, RuntimeError):
    """The calling thread or task already holds this mutex; waiting for it would never end."""


class NotOwned(DriverMutexError, RuntimeError):
    """The calling thread or task does not hold the lock that it tries to use or release.

    Raised by a guard after its release, in a thread or task other than its holder, or in a forked child.
    """


class KernelUnsupported(DriverMutexError, OSError):
    """The kernel, or a seccomp filter, refuses a system call that every lock needs, or /proc is missing.

    Attributes:
        system_call: name of the refused system call, None if /proc is missing.
        errno: error of the call, 0 if there was none.
    """

    system_call: str | None = None
    errno: int | None = None

    __str__ = Exception.__str__


class MutexBusy(DriverMutexError, RuntimeError):
    """The operation needs exclusive use of the mutex, but its lock is held or a commit is in progress."""


class MutexDestroyed(DriverMutexError, RuntimeError):
    """The mutex of this handle no longer exists: it was destroyed, overwritten, unregistered or moved out."""


class MutexDamaged(DriverMutexError):
    """The bytes in shared memory are not what this package wrote there."""


class LayoutMismatch(DriverMutexError):
    """The segment was made by another layout version, C library, word size, boot or pid namespace.

    Attributes:
        field: the differing field.
        found: the value in the segment.
        expected: the value in this process.
    """

    field: str | None = None
    found: Any = None
    expected: Any = None


class OtherPidNamespace(LayoutMismatch):
    """The segment was made in another pid namespace (container) or before a reboot: its pids are meaningless here.

    A daemon takes over a pool that no living process uses. This error means that a process still uses it, or that no
    daemon of this namespace has been started since.
    """


class SegmentRefused(DriverMutexError, PermissionError):
    """A segment of that name exists, but this user may not use it.

    Attributes:
        owner_uid: uid of its owner.
    """

    owner_uid: int | None = None

    __str__ = Exception.__str__


class ValueTooLarge(DriverMutexError, ValueError):
    """T has more bytes of msgpack than its mutex can hold; the previous T is unchanged.

    Attributes:
        size: bytes that T takes.
        limit: most bytes that are possible.
    """

    size: int | None = None
    limit: int | None = None


class LeaseLost(DriverMutexError, RuntimeError):
    """This machine lost the lock while it was held: its lease at the engine has ended, and others may hold the lock.

    Only mutexes of an instance on an engine (etcd, PostgreSQL) raise it; a lock in shared memory has no lease.

    Attributes:
        fence: the fence of the hold that ended, see :attr:`Guard.fence`.
    """

    fence: int | None = None


class Fenced(LeaseLost):
    """The engine refused a commit, because the lease of its holder had ended. T was surely not changed by it."""


class CommitUnknown(DriverMutexError, RuntimeError):
    """The engine did not answer a commit, and it cannot be found out any more whether T was changed by it.

    Only mutexes of an instance on an engine (etcd, PostgreSQL) raise it. The lock is not held any more. Read T before
    the change is made again.

    Attributes:
        fence: the fence of the hold, see :attr:`Guard.fence`.
    """

    fence: int | None = None


class GrtError(WdkMutexError):
    """Base of the errors of names and of the daemon.

    Attributes:
        instance: the instance of the Grt.
    """

    instance: str | None = None


class GrtDriverMutexError(GrtError, DriverMutexError):
    """A call to the Grt failed with an error of a mutex or its memory: the crate's ``GrtError::DriverMutexError(e)``.

    The error raised is both the original error, such as :class:`PagedPoolAllocFailed`, and this one. So ``except
    GrtError`` around a registration also catches a full pool, and ``except PagedPoolAllocFailed`` works as usual.
    """


class GrtAlreadyExists(GrtError, RuntimeError):
    """``Grt.init`` was called a second time in this process."""


class GrtIsNull(GrtError, RuntimeError):
    """There is no Grt: none was started, or it was destroyed."""


class GrtIsEmpty(GrtError, LookupError):
    """A name was looked up in a Grt that has no mutex at all."""


class KeyExists(GrtError, LookupError):
    """A checked registration found that the name is taken."""


class KeyNotFound(GrtError, LookupError):
    """No mutex has that name."""


class DowncastError(GrtError, TypeError):
    """The mutex has another kind, or another type of T, than requested.

    Attributes:
        found: the registered kind or type.
        wanted: the requested one.
    """

    found: str | None = None
    wanted: str | None = None


class InvalidName(GrtError, ValueError):
    """The name is not valid for a mutex or an instance."""


class DaemonError(GrtError):
    """Base of the errors between a process and the daemon."""


class DaemonUnavailable(DaemonError, ConnectionError):
    """The daemon of the instance does not answer. Mutexes that this process already has keep working.

    Attributes:
        path: the socket that was tried.
    """

    path: str | None = None

    __str__ = Exception.__str__


class EngineUnavailable(GrtError, ConnectionError):
    """The engine of an instance on other machines cannot be used: no such engine is here, or it does not answer.

    Attributes:
        engine: scheme of its URL, such as ``etcd``.
    """

    engine: str | None = None

    __str__ = Exception.__str__


class ProtocolError(DaemonError):
    """A frame or message that the protocol does not allow."""


class RuntimeFolderRefused(DaemonError, PermissionError):
    """The folder for sockets is not safe to use: wrong owner or permissions, a symbolic link, or a path that is too
    long.

    Attributes:
        path: the folder or socket path.
    """

    path: str | None = None

    __str__ = Exception.__str__


class WorkerDied(WdkMutexError, RuntimeError):
    """The pool worker that ran a task died before it returned the result. The task may have had effects.

    Attributes:
        pid: the process.
        exitcode: its exit code: the negative number of the signal that killed it, or the value passed to
            ``os._exit()``.
    """

    pid: int | None = None
    exitcode: int | None = None


class PoolBroken(WdkMutexError, RuntimeError):
    """The workers of a pool died one after the other as they started, and the pool starts no more. All of its tasks
    fail with this error.

    The pool gives up after twice its number of workers in a row, at least four; a worker killed by SIGKILL counts as
    one eighth. Fix the cause shown by the traceback or the exit code, and make a new pool.

    Attributes:
        pid: the last of these workers. exitcode: its exit code, as in :class:`WorkerDied`.
        traceback: the traceback of its initializer, as text; None if unknown.
    """

    pid: int | None = None
    exitcode: int | None = None
    traceback: str | None = None
