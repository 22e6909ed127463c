"""The values of a mutex as they are committed, one after the other, in a thread or in a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from ..base.names import KIND_FAST, KIND_K
from ..core._core import WAIT_VALUE, Wait, commits, must_allow
from .deadline import Deadline
from .value import must_not_hold, newest, sleep_until_commit
from .value_async import next_change

if TYPE_CHECKING:
    from ..core._core import Mutex

__all__ = ["Changes"]

T = TypeVar("T")
_APC, _DISPATCH = 1, 2


class Changes(Generic[T]):
    """The values of a mutex, one after the other; see :meth:`wdkmutex_shm.KMutex.changes`. For one thread or task."""

    def __init__(self, mutex: Mutex[T], timeout: float | None) -> None:
        self._mutex = mutex
        self._timeout = timeout
        self._kind = KIND_FAST if type(mutex).__name__ == "FastMutex" else KIND_K
        self._seen: int | None = None

    def __iter__(self) -> Changes[T]:
        return self

    def __next__(self) -> T:
        """Wait for a commit that was not seen yet, and return the T of the last one."""
        waits = self._timeout != 0 or self._kind == KIND_FAST
        must_allow("changes", self._mutex.name, _APC if waits else _DISPATCH, self._kind)
        deadline = Deadline(self._timeout)
        wait: Wait | None = None
        try:
            while True:
                known = commits(self._mutex)
                if known != self._seen:
                    self._seen, value = newest(self._mutex)
                    return value
                must_not_hold(self._mutex, "changes")
                nap = deadline.nap()
                if nap == 0:
                    raise StopIteration
                if wait is None:
                    wait = Wait(WAIT_VALUE)
                sleep_until_commit(self._mutex, known, nap, wait)
        finally:
            if wait is not None:
                wait.end()

    def __aiter__(self) -> Changes[T]:
        return self

    async def __anext__(self) -> T:
        """As :meth:`__next__`, in a task of asyncio or Trio, at any IRQL; whoever holds the lock."""
        found = await next_change(self._mutex, self._seen, self._timeout)
        if found is None:
            raise StopAsyncIteration
        self._seen, value = found
        return value

    def __repr__(self) -> str:
        return f"<changes of {self._mutex!r}>"
