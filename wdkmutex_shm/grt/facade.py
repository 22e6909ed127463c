# ruff: noqa: N803 - T is what the documents call it
"""The Grt, the global reference tracker: mutexes by name, for every process of the user on this machine.

Names are kept by the daemon of an instance; locking never goes through it. See :mod:`wdkmutex_shm.grt.session` for
which instance a process is attached to and :mod:`wdkmutex_shm.engines.local.requests` for what is asked of the daemon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from ..base.names import KIND_FAST, KIND_K, KIND_SECTION, default_instance
from ..base.unset import UNSET
from ..engines.local import requests
from ..errors import GrtIsNull
from . import session
from .bulk import GrtMany

if TYPE_CHECKING:
    from ..base.records import MutexInfo
    from ..core._core import CriticalSection, FastMutex, KMutex

__all__ = ["Grt", "Registration", "unregister_slot"]

V = TypeVar("V")


def unregister_slot(
    instance: str, name: str, generation: int, segment: str | None = None, slot: int | None = None
) -> bool:
    """Destroy the mutex ``name`` of ``instance`` if it is still the tenant of that generation (in that slot of that
    segment, where they are given). Tells whether it was. Its lock may be held, by the caller or by others.

    Raises:
        GrtIsNull: the instance is gone. DaemonUnavailable: its daemon does not answer.
    """
    return requests.unregister_slot(session.client_of(instance), name, generation, segment, slot)


class Registration:
    """The home of the mutexes that have a name in an instance; see :class:`wdkmutex_shm.objects.homes.Home`."""

    def __init__(self, instance: str) -> None:
        self.instance = instance

    def end_tenancy(self, mutex: Any) -> bool:
        """Unregister the mutex, if the handle's tenancy is still that of its name."""
        return unregister_slot(self.instance, mutex.name, mutex.generation, mutex.segment, mutex.slot_index)


class Grt(GrtMany):
    """The global reference tracker. All of its methods are static; it is not instantiated.

    Every method that takes a name raises :class:`InvalidName` if the name is invalid (it must be 1 to 104 bytes of
    UTF-8 without NUL), :class:`GrtIsNull` if no Grt runs, and :class:`DaemonUnavailable` if its daemon does not
    answer. A process that never called :meth:`init` uses the instance ``WDKMUTEX_INSTANCE`` (or else ``default``) if
    it runs. The methods talk to the daemon and block meanwhile, so do not call them in the thread of an event loop.
    """

    def __new__(cls) -> Grt:
        """Refuse: call the methods on the class."""
        raise TypeError("Grt is not instantiated; call its methods on the class: Grt.init()")

    # --- the Grt as a whole

    @staticmethod
    def init(instance: str | None = None, autostart: bool = True, timeout: float = 10.0) -> None:
        """Attach this process to an instance and start its daemon if none serves it.

        Args:
            instance: its name; None means ``WDKMUTEX_INSTANCE``, else ``default``.
            autostart: start the daemon if none runs, now and whenever it is found dead later.
            timeout: maximum seconds for this call and for each later call.

        Raises:
            GrtAlreadyExists: this process has called it before and the Grt still exists.
            GrtIsNull: no daemon serves the instance, and ``autostart`` is False.
            DaemonUnavailable: the daemon does not start in time; the message names the log to check.
            PagedPoolAllocFailed: /dev/shm has no room for the pool.
            RuntimeFolderRefused: the folder for sockets is not safe to use.
            InvalidName: the name is not valid for an instance.
            EngineUnavailable: it is the URL of an engine (``etcd://...``, ``postgresql://...``) that this version does
                not have.
        """
        session.init(instance, autostart, timeout)

    @staticmethod
    def instance() -> str | None:
        """The instance that this process is attached to, or None."""
        return session.attached_instance()

    @staticmethod
    def detach() -> None:
        """Detach this process from the Grt. The daemon, the mutexes and this process's handles live on. Does nothing
        if not attached."""
        session.leave()

    @staticmethod
    def destroy() -> None:
        """Destroy every mutex of the instance, for all processes, remove its segments and end its daemon.

        Waiters for any of the locks, and later users of a handle, get :class:`MutexDestroyed`. This process is
        detached, and may call :meth:`init` again.

        Raises:
            GrtIsNull: there is no Grt.
            DaemonUnavailable: its daemon does not answer; nothing was destroyed.
        """
        client = session.current()
        try:
            requests.destroy(client)
        except GrtIsNull:
            session.leave(client)
            raise
        session.leave(client)

    @staticmethod
    def names() -> list[str]:
        """The names of all mutexes of the instance, sorted."""
        return requests.names(session.current())

    @staticmethod
    def snapshot() -> list[MutexInfo]:
        """All mutexes of the instance, sorted by name: who holds each, who waits for it, and its counters.

        One pass over shared memory. It takes no lock, waits for nobody and does not ask the daemon, so it also works
        while that is down. Each mutex is as it was at one instant, but not all at the same one. A thousand mutexes take
        about 2 ms. See :func:`anonymous_snapshot` for the mutexes without a name.

        IRQL: any.

        Raises:
            GrtIsNull: there is no Grt, or it is being destroyed.
            OtherPidNamespace: the instance is of another container, where pids mean something else.
            LayoutMismatch, SegmentRefused: its segments are of another version, or another user's.
            PagedPoolAllocFailed: no file descriptor is free.
        """
        from ..observe import snapshot

        return snapshot.of_instance(session.attached_instance() or default_instance())

    @staticmethod
    def unregister(name: str) -> None:
        """Destroy one mutex, for all processes; whoever waits for it gets :class:`MutexDestroyed`.

        Raises:
            KeyNotFound: no mutex has that name. GrtIsEmpty: there is no mutex at all.
        """
        requests.unregister(session.current(), name)

    # --- KMutex

    @overload
    @staticmethod
    def register_kmutex(name: str, v: None, type: None = None) -> KMutex[Any]: ...
    @overload
    @staticmethod
    def register_kmutex(name: str, v: V, type: type[V] = ...) -> KMutex[V]: ...
    @overload
    @staticmethod
    def register_kmutex(name: str, v: Any, type: Any) -> KMutex[Any]: ...
    @staticmethod
    def register_kmutex(name: str, v: Any, type: Any = UNSET) -> Any:
        """Register a KMutex with the first T ``v``. A mutex of that name is destroyed and replaced.

        Args:
            name: of the mutex.
            v: the first T.
            type: the type of T; ``type(v)`` by default, None for any value that msgpack supports.

        IRQL: any.

        Raises:
            TypeError, OverflowError: msgpack cannot hold ``v``, or it is not of that ``type``.
            PagedPoolAllocFailed: /dev/shm is full; an existing mutex of that name is unchanged.
            MutexDestroyed: another process has already overwritten the name.
        """
        return requests.create(session.current(), name, KIND_K, "overwrite", v, type)

    @overload
    @staticmethod
    def register_kmutex_checked(name: str, v: None, type: None = None) -> KMutex[Any]: ...
    @overload
    @staticmethod
    def register_kmutex_checked(name: str, v: V, type: type[V] = ...) -> KMutex[V]: ...
    @overload
    @staticmethod
    def register_kmutex_checked(name: str, v: Any, type: Any) -> KMutex[Any]: ...
    @staticmethod
    def register_kmutex_checked(name: str, v: Any, type: Any = UNSET) -> Any:
        """As :meth:`register_kmutex`, but only if the name is free; if several processes call this, one succeeds.

        Raises:
            KeyExists: the name is taken; nothing was changed.
        """
        return requests.create(session.current(), name, KIND_K, "checked", v, type)

    @overload
    @staticmethod
    def get_or_register_kmutex(name: str, v: None, type: None = None) -> KMutex[Any]: ...
    @overload
    @staticmethod
    def get_or_register_kmutex(name: str, v: V, type: type[V] = ...) -> KMutex[V]: ...
    @overload
    @staticmethod
    def get_or_register_kmutex(name: str, v: Any, type: Any) -> KMutex[Any]: ...
    @staticmethod
    def get_or_register_kmutex(name: str, v: Any, type: Any = UNSET) -> Any:
        """Return the KMutex of that name, or register it with the first T ``v``; if several processes call this, one
        registers.

        Arguments, IRQL and errors as :meth:`register_kmutex`, and:

        Raises:
            DowncastError: the name is taken by a mutex of another kind or type of T.
        """
        return requests.create(session.current(), name, KIND_K, "get_or_register", v, type)

    @overload
    @staticmethod
    def get_kmutex(name: str, T: type[V]) -> KMutex[V]: ...
    @overload
    @staticmethod
    def get_kmutex(name: str, T: Any = ...) -> KMutex[Any]: ...
    @staticmethod
    def get_kmutex(name: str, T: Any = UNSET) -> Any:
        """Return the KMutex of that name.

        Args:
            name: of the mutex.
            T: the required type of T; by default any.

        Raises:
            KeyNotFound: no mutex has that name. GrtIsEmpty: there is no mutex at all.
            DowncastError: it has another kind, or another type of T.
        """
        return requests.get(session.current(), name, KIND_K, T)

    # --- FastMutex

    @overload
    @staticmethod
    def register_fast_mutex(name: str, v: None, type: None = None) -> FastMutex[Any]: ...
    @overload
    @staticmethod
    def register_fast_mutex(name: str, v: V, type: type[V] = ...) -> FastMutex[V]: ...
    @overload
    @staticmethod
    def register_fast_mutex(name: str, v: Any, type: Any) -> FastMutex[Any]: ...
    @staticmethod
    def register_fast_mutex(name: str, v: Any, type: Any = UNSET) -> Any:
        """Register a FastMutex with the first T ``v``. A mutex of that name is destroyed and replaced.

        Args:
            name: of the mutex.
            v: the first T.
            type: the type of T; ``type(v)`` by default, None for any value that msgpack supports.

        IRQL: up to DISPATCH.

        Raises:
            TypeError, OverflowError: msgpack cannot hold ``v``, or it is not of that ``type``.
            IrqlTooHigh: the thread is above DISPATCH.
            PagedPoolAllocFailed: /dev/shm is full; an existing mutex of that name is unchanged.
            MutexDestroyed: another process has already overwritten the name.
        """
        return requests.create(session.current(), name, KIND_FAST, "overwrite", v, type)

    @overload
    @staticmethod
    def register_fast_mutex_checked(name: str, v: None, type: None = None) -> FastMutex[Any]: ...
    @overload
    @staticmethod
    def register_fast_mutex_checked(name: str, v: V, type: type[V] = ...) -> FastMutex[V]: ...
    @overload
    @staticmethod
    def register_fast_mutex_checked(name: str, v: Any, type: Any) -> FastMutex[Any]: ...
    @staticmethod
    def register_fast_mutex_checked(name: str, v: Any, type: Any = UNSET) -> Any:
        """As :meth:`register_fast_mutex`, but only if the name is free; if several processes call this, one succeeds.

        Raises:
            KeyExists: the name is taken; nothing was changed.
        """
        return requests.create(session.current(), name, KIND_FAST, "checked", v, type)

    @overload
    @staticmethod
    def get_or_register_fast_mutex(name: str, v: None, type: None = None) -> FastMutex[Any]: ...
    @overload
    @staticmethod
    def get_or_register_fast_mutex(name: str, v: V, type: type[V] = ...) -> FastMutex[V]: ...
    @overload
    @staticmethod
    def get_or_register_fast_mutex(name: str, v: Any, type: Any) -> FastMutex[Any]: ...
    @staticmethod
    def get_or_register_fast_mutex(name: str, v: Any, type: Any = UNSET) -> Any:
        """Return the FastMutex of that name, or register it with the first T ``v``; if several processes call this,
        one registers.

        Arguments, IRQL and errors as :meth:`register_fast_mutex`, and:

        Raises:
            DowncastError: the name is taken by a mutex of another kind or type of T.
        """
        return requests.create(session.current(), name, KIND_FAST, "get_or_register", v, type)

    @overload
    @staticmethod
    def get_fast_mutex(name: str, T: type[V]) -> FastMutex[V]: ...
    @overload
    @staticmethod
    def get_fast_mutex(name: str, T: Any = ...) -> FastMutex[Any]: ...
    @staticmethod
    def get_fast_mutex(name: str, T: Any = UNSET) -> Any:
        """Return the FastMutex of that name.

        Args:
            name: of the mutex.
            T: the required type of T; by default any.

        Raises:
            KeyNotFound: no mutex has that name. GrtIsEmpty: there is no mutex at all.
            DowncastError: it has another kind, or another type of T.
        """
        return requests.get(session.current(), name, KIND_FAST, T)

    # --- CriticalSection

    @staticmethod
    def register_critical_section(name: str) -> CriticalSection:
        """Register a CriticalSection. A mutex of that name is destroyed and replaced.

        Raises as :meth:`register_kmutex`.
        """
        section: CriticalSection = requests.create_section(session.current(), name, "overwrite")
        return section

    @staticmethod
    def register_critical_section_checked(name: str) -> CriticalSection:
        """As :meth:`register_critical_section`, but only if the name is free, else :class:`KeyExists`."""
        section: CriticalSection = requests.create_section(session.current(), name, "checked")
        return section

    @staticmethod
    def get_or_register_critical_section(name: str) -> CriticalSection:
        """Return the CriticalSection of that name, or register it. Raises as :meth:`get_or_register_kmutex`."""
        section: CriticalSection = requests.create_section(session.current(), name, "get_or_register")
        return section

    @staticmethod
    def get_critical_section(name: str) -> CriticalSection:
        """Return the CriticalSection of that name. Raises as :meth:`get_kmutex`."""
        section: CriticalSection = requests.get(session.current(), name, KIND_SECTION)
        return section
