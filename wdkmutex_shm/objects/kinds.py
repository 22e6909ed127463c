"""The kinds of mutex: their classes, their numbers in shared memory, and their names."""

from __future__ import annotations

from enum import Enum
from typing import Any

from ..base.names import KIND_FAST, KIND_K, KIND_SECTION, KIND_WORDS

__all__ = ["MutexType", "class_of", "kind_of"]


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
        return class_of(_NUMBERS[self.value])


_NUMBERS = {KIND_WORDS[kind]: kind for kind in (KIND_FAST, KIND_K, KIND_SECTION)}
_classes: dict[int, Any] = {}


def class_of(kind: int) -> Any:
    """The class of handles to mutexes of a kind."""
    if not _classes:
        from ..core._core import CriticalSection, FastMutex, KMutex

        _classes.update({KIND_FAST: FastMutex, KIND_K: KMutex, KIND_SECTION: CriticalSection})
    return _classes[kind]


def kind_of(cls: Any) -> int:
    """The kind of mutex that a class of handles is for, or a MutexType. Raises TypeError for anything else."""
    if isinstance(cls, MutexType):
        cls = cls.cls
    for kind in _NUMBERS.values():
        if class_of(kind) is cls:
            return kind
    raise TypeError(f"a kind of mutex is the class FastMutex, KMutex or CriticalSection, or a MutexType; not {cls!r}")
