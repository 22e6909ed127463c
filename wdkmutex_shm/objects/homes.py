"""Where a mutex lives, and how its tenancy is ended there.

An anonymous mutex is at home in the private pool of a process, and any process ends its tenancy in the slot itself. A
mutex with a name is at home with the engine that keeps the name; which one that is, the package says with
:func:`set_engine` when it is imported.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself takes as long to import as all of this package
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol
else:
    Protocol = object

__all__ = ["Home", "home_of", "set_engine"]


class Home(Protocol):
    """What can end the tenancy of a mutex."""

    def end_tenancy(self, mutex: Any) -> bool:
        """End the tenancy that the handle ``mutex`` is to. Tells whether it was still the slot's."""


class PrivateHome:
    """The home of anonymous mutexes."""

    def end_tenancy(self, mutex: Any) -> bool:
        """End it in the slot; see :class:`Home`."""
        ended: bool = mutex._vacate()
        return ended


_private = PrivateHome()
_engine: Callable[[str], Home] | None = None


def set_engine(home_of_instance: Callable[[str], Home]) -> None:
    """Say who knows the home of the mutexes of an instance."""
    global _engine
    _engine = home_of_instance


def home_of(mutex: Any) -> Home:
    """The home of the mutex of a handle."""
    prefix: str = mutex.segment[: mutex.segment.rindex(".")]
    if ".@" in prefix:
        return _private
    assert _engine is not None, "the package sets it when it is imported"
    return _engine(prefix.rpartition(".")[2])
