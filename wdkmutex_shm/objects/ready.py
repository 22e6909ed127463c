"""What locking, waiting and their errors need, loaded when a process gets its first handle and never later.

A fork in the midst of an import leaves the lock of that module behind: a child that imports it as well waits forever.
So nothing that is called on a mutex imports a module, and whatever ``import wdkmutex_shm`` leaves out, to be quick, is
loaded here. What T itself needs (msgpack, msgspec) is loaded as its handle is made.
"""

from __future__ import annotations

from ..core import box
from ..pool import private, slot_info, sweep
from ..wait import any_of, changes, task_queue, value_async

__all__ = ["box", "slot_info", "private", "task_queue", "any_of", "changes", "sweep", "value_async"]
