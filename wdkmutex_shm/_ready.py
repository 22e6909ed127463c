"""What locking, waiting and their errors need, loaded when a process gets its first handle and never later.

A fork in the midst of an import leaves the lock of that module behind: a child that imports it as well waits forever.
So nothing that is called on a mutex imports a module, and whatever ``import wdkmutex_shm`` leaves out, to be quick, is
loaded here. What T itself needs (msgpack, msgspec) is loaded as its handle is made.
"""

from __future__ import annotations

from .core import box
from .core._core import hooks
from .objects import handles
from .observe import deadlock, holder, waiters
from .pool import private, slot_info, sweep
from .wait import any_of, changes, task_queue, value, value_async

__all__ = ["any_of", "box", "fill_hooks", "private", "slot_info", "sweep"]


def fill_hooks() -> None:
    """Give the core what it asks of the layers above it."""
    hooks.rebuild = handles.rebuild
    hooks.portable_type = handles.portable_type
    hooks.consume = handles.consume
    hooks.statistics_of = handles.statistics_of
    hooks.holder_of = holder.holder_of
    hooks.waiters_of = waiters.waiters_of
    hooks.raise_timeout = waiters.raise_timeout
    hooks.refuse_deadlock = deadlock.refuse
    hooks.lock_when = value.lock_when
    hooks.wait_for = value.wait_for
    hooks.wait_in_guard = value.wait_in_guard
    hooks.changes = changes.Changes
    hooks.lock_when_async = value_async.LockWhen
    hooks.wait_for_async = value_async.wait_for
    hooks.contend = task_queue.contend
