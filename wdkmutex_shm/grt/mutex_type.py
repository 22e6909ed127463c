"""The kinds of mutex by name, for code that chooses one at run time."""

from __future__ import annotations

from enum import Enum
from typing import Any

__all__ = ["MutexType"]


class MutexType(Enum):
    """The kind of mutex for the Grt to make or look up: the crate's ``MutexType``, plus the critical section.

    :meth:`Grt.register_many` and :meth:`Grt.get_many` accept it instead of the class. The values are the words that the
    command line uses (``--kind fast``), including the output of ``list`` and ``show``: ``MutexType("fast")``.
    """

    FastMutex = "fast"
    KMutex = "k"
    CriticalSection = "section"

    @property
    def cls(self) -> Any:
        """The class of its handles: :class:`FastMutex`, :class:`KMutex` or :class:`CriticalSection`."""
        import wdkmutex_shm

        return getattr(wdkmutex_shm, self.name)
