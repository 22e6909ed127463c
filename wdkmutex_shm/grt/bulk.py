# ruff: noqa: N803 - T is what the documents call it
"""The part of the Grt that takes many names in one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from ..base.names import KIND_SECTION
from ..base.unset import UNSET
from . import session

if TYPE_CHECKING:
    from ..core._core import CriticalSection, FastMutex, KMutex
    from ..objects.kinds import MutexType

__all__ = ["GrtMany", "Mode"]

V = TypeVar("V")
Mode = Literal["overwrite", "checked", "get_or_register"]
"""What happens when a name is taken: replaced, refused with :class:`KeyExists`, or what is there is handed out."""


class GrtMany:
    """Many names in one call: some hundred times faster than one by one. See :class:`wdkmutex_shm.Grt`."""

    @overload
    @staticmethod
    def register_many(
        kind: type[CriticalSection], values: Iterable[str], *, mode: Mode = "overwrite"
    ) -> dict[str, CriticalSection]: ...
    @overload
    @staticmethod
    def register_many(
        kind: type[FastMutex[Any]], values: Mapping[str, V], *, type: type[V] = ..., mode: Mode = "overwrite"
    ) -> dict[str, FastMutex[V]]: ...
    @overload
    @staticmethod
    def register_many(
        kind: type[FastMutex[Any]], values: Mapping[str, Any], *, type: Any, mode: Mode = "overwrite"
    ) -> dict[str, FastMutex[Any]]: ...
    @overload
    @staticmethod
    def register_many(
        kind: type[KMutex[Any]], values: Mapping[str, V], *, type: type[V] = ..., mode: Mode = "overwrite"
    ) -> dict[str, KMutex[V]]: ...
    @overload
    @staticmethod
    def register_many(
        kind: type[KMutex[Any]], values: Mapping[str, Any], *, type: Any, mode: Mode = "overwrite"
    ) -> dict[str, KMutex[Any]]: ...
    @overload
    @staticmethod
    def register_many(
        kind: MutexType, values: Mapping[str, Any] | Iterable[str], *, type: Any = ..., mode: Mode = "overwrite"
    ) -> dict[str, Any]: ...
    @staticmethod
    def register_many(kind: Any, values: Any, *, type: Any = UNSET, mode: Mode = "overwrite") -> Any:
        """Register many mutexes of one kind, each name as by the single call. Other processes see the names appear one
        by one.

        The call as a whole is not atomic: if it fails, is interrupted or killed half-way, the names registered so far
        stay. With ``checked``, all names are looked up first, and if one of them is taken, nothing is registered;
        if another process takes one in the meantime, or anything else fails, the names registered so far are
        unregistered again before the error is raised. In every mode, up to 1024 names whose first T has at most 72
        bytes are registered all together or not at all.

        Args:
            kind: FastMutex, KMutex or CriticalSection: the class, or its :class:`MutexType`.
            values: the first T of each name; for CriticalSections the names.
            type: T of all of them; by default the type of each value, None for anything that msgpack holds.
            mode: ``"overwrite"`` as ``register_*``, ``"checked"`` as ``register_*_checked``, or ``"get_or_register"``
                as ``get_or_register_*`` does it.

        Returns:
            A handle for each name, in the order of ``values``.

        IRQL: as the single calls.

        Raises:
            TypeError, OverflowError: msgpack cannot hold a value, or it is not of that ``type``; nothing was
                registered.
            InvalidName, IrqlTooHigh: nothing was registered.
            KeyExists: a name is taken (``checked``); the message names the first few.
            DowncastError: a name is taken by another kind or type of T (``get_or_register``).
            PagedPoolAllocFailed: /dev/shm is full. DaemonUnavailable: the daemon does not answer. MutexDestroyed:
                another process has already overwritten a name. The message says how many names are registered now.
        """
        from ..engines.local import bulk_requests
        from ..objects.kinds import kind_of

        number = kind_of(kind)
        if mode not in ("overwrite", "checked", "get_or_register"):
            raise ValueError(f"mode is 'overwrite', 'checked' or 'get_or_register', not {mode!r}")
        if number == KIND_SECTION:
            if type is not UNSET or (isinstance(values, Mapping) and any(v is not None for v in values.values())):
                raise TypeError("a CriticalSection protects no T; pass its names alone")
            values = dict.fromkeys(_names(values))
        elif not isinstance(values, Mapping):
            raise TypeError(f"values is a mapping of names to first T, not {values.__class__.__name__}")
        return bulk_requests.register(session.current(), number, values, type, mode)

    @overload
    @staticmethod
    def get_many(kind: type[CriticalSection], names: Iterable[str]) -> dict[str, CriticalSection]: ...
    @overload
    @staticmethod
    def get_many(kind: type[FastMutex[Any]], names: Iterable[str], T: type[V]) -> dict[str, FastMutex[V]]: ...
    @overload
    @staticmethod
    def get_many(kind: type[FastMutex[Any]], names: Iterable[str], T: Any = ...) -> dict[str, FastMutex[Any]]: ...
    @overload
    @staticmethod
    def get_many(kind: type[KMutex[Any]], names: Iterable[str], T: type[V]) -> dict[str, KMutex[V]]: ...
    @overload
    @staticmethod
    def get_many(kind: type[KMutex[Any]], names: Iterable[str], T: Any = ...) -> dict[str, KMutex[Any]]: ...
    @overload
    @staticmethod
    def get_many(kind: MutexType, names: Iterable[str], T: Any = ...) -> dict[str, Any]: ...
    @staticmethod
    def get_many(kind: Any, names: Any, T: Any = UNSET) -> Any:
        """Return the mutexes of many names, all of one kind.

        Args:
            kind: FastMutex, KMutex or CriticalSection: the class, or its :class:`MutexType`.
            names: of the mutexes; a repeated name is returned once.
            T: the required type of T of each; by default any.

        Returns:
            A handle for each name, in the order of ``names``.

        Raises:
            KeyNotFound: some names are unknown; the message says how many and lists the first few.
            GrtIsEmpty: there is no mutex at all.
            DowncastError: one has another kind, or another type of T.
        """
        from ..engines.local import bulk_requests
        from ..objects.kinds import kind_of

        return bulk_requests.get(session.current(), kind_of(kind), _names(names), T)


def _names(names: Any) -> Iterable[str]:
    if isinstance(names, (str, bytes)):
        raise TypeError(f"names are a list, not one {names.__class__.__name__}: [{names!r}]")
    wanted: Iterable[str] = names
    return wanted
