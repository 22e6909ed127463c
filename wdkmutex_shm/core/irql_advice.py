"""What to do instead of an operation that the thread's IRQL does not allow: the last part of IrqlTooHigh's message."""

from __future__ import annotations

from ..base.names import KIND_FAST

__all__ = ["out_of"]

_DISPATCH = 2

#: What waits in a task instead.
_IN_TASKS = {
    "lock": "wait with `async with ....lock_async()`",
    "fetch_add": "wait with `async with ....lock_async()`",
    "replace": "wait with `async with ....lock_async()`",
    "entering": "wait with `async with ....lock_async()`",
    "lock_when": "wait with `async with ....lock_when_async()`",
    "wait_for": "wait with `await ....wait_for_async()`",
    "changes": "wait with `async for`",
}

#: What does not wait instead, and is allowed up to DISPATCH unless a FastMutex is locked by it.
_AT_ONCE = {
    "lock": "use try_lock()",
    "fetch_add": "use timeout=0",
    "replace": "use timeout=0",
    "entering": "use try_enter()",
    "lock_when": "use timeout=0",
    "wait_for": "use timeout=0",
    "changes": "use timeout=0",
    "lock_all": "use timeout=0",
    "lock_any": "use timeout=0",
    "acquire": "use acquire(False)",
    "get": "use get(False)",
    "put": "use put(..., False)",
    "Event.wait": "use is_set()",
}


def out_of(operation: str, kind: int, level: int, limit: int, in_loop: bool) -> str:
    """Return what to do instead.

    Args:
        operation: as the error calls it. kind: of the mutex, 0 where it is none that users see.
        level: the thread's. limit: the highest that the operation is allowed at.
        in_loop: the level comes of the event loop that the thread runs.
    """
    found = []
    if in_loop and kind and operation in _IN_TASKS:
        found.append(_IN_TASKS[operation])
    if level <= _DISPATCH and limit < _DISPATCH and kind != KIND_FAST and operation in _AT_ONCE:
        found.append(_AT_ONCE[operation])
    if (
        kind == KIND_FAST
        and level == _DISPATCH
        and limit < _DISPATCH
        and operation not in ("drop_safe", "guard.wait_for")
    ):
        found.append("use a KMutex, whose try_lock() is allowed at DISPATCH")
    found.append("do it in a worker thread" if in_loop else "lower the IRQL first")
    return ", or ".join(found)
