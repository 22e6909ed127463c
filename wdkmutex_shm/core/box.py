"""A T that was moved out of its mutex and still lives in the pool."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..errors import MutexDestroyed
from ._core import BoxedBytes

if TYPE_CHECKING:
    from ..pool.private import PrivatePool
    from ._core import Handle
    from .types import Codec

__all__ = ["Box"]

T = TypeVar("T")


class Box(Generic[T]):
    """Owns a T in shared memory, without a lock. Only ``to_owned_box()`` returns one.

    Freed by :meth:`close`, by leaving its ``with``, or by garbage collection. It belongs to the process that made it:
    it cannot be pickled, and a forked child cannot free it.
    """

    _pool: PrivatePool | None
    _home: Handle
    _codec: Codec
    _bytes: BoxedBytes

    def __init__(self) -> None:
        raise TypeError("a Box is returned by to_owned_box()")

    @classmethod
    def _own(cls, pool: PrivatePool, home: Handle, codec: Codec) -> Box[T]:
        self = cls.__new__(cls)
        self._pool = pool
        self._home = home
        self._codec = codec
        self._bytes = BoxedBytes(pool.mapped(home.segment), home.slot_index, home)
        return self

    @property
    def value(self) -> T:
        """T, decoded from shared memory on each access.

        Raises:
            MutexDestroyed: the box was closed. MutexDamaged: its bytes are not a valid T.
        """
        if self._pool is None:
            raise MutexDestroyed("this box was closed")
        value: T = self._bytes.decode(self._codec)
        return value

    @property
    def buffer(self) -> memoryview:
        """The msgpack bytes of T in place, as a read-only memoryview. Release it before :meth:`close`.

        Raises:
            MutexDestroyed: the box was closed.
        """
        if self._pool is None:
            raise MutexDestroyed("this box was closed")
        return memoryview(self._bytes)

    @property
    def closed(self) -> bool:
        """Whether the memory was freed."""
        return self._pool is None

    def close(self) -> None:
        """Free the memory. A second call does nothing.

        Raises:
            BufferError: a memoryview of :attr:`buffer` is still in use.
        """
        if self._pool is None:
            return
        if self._bytes.exports:
            raise BufferError(
                f"{self._bytes.exports} memoryviews of the box's buffer are still in use: release them first"
            )
        self._pool = None
        self._home._free()
        self._bytes.forget()

    def __enter__(self) -> Box[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # A view that is still in use keeps `_bytes`, not this box, alive: its memory must then stay.
        if getattr(self, "_pool", None) is not None and not self._bytes.exports:
            self.close()

    def __reduce__(self) -> Any:
        raise TypeError("a Box cannot be pickled: it owns memory of its process; pickle its value")

    def __repr__(self) -> str:
        return "<Box, closed>" if self._pool is None else f"<Box of {self._codec.label.decode()}>"
