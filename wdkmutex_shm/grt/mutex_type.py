"""The kinds of mutex by name, for code that chooses one at run time."""

from __future__ import annotations

from enum import Enum
from typing import Any

__all__ = ["MutexType"]


class MutexType(Enum):
    """A kind of mutex: what the Grt is to make, or to look up. The crate's ``MutexType``, and the critical section.

    :meth:`Grt.register_many` and :meth:`Grt.get_many` take it in the place of the class. The values are the words of
    the command line (``--kind fast``) and of what ``list`` and ``show`` print: ``MutexType("fast")``.
    """

    FastMutex = "fast"
    KMutex = "k"
    CriticalSection = "section"

    @property
    def cls(self) -> Any:
        """The class of its handles: :class:`FastMutex`, :class:`KMutex` or :class:`CriticalSection`."""
        import wdkmutex_shm

        return getattr(wdkmutex_shm, self.name)
