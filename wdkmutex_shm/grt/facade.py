# ruff: noqa: N803 - T is what the documents call it
"""The Grt, the global reference tracker: mutexes by name, for every process of the user on this machine.

Names are kept by the daemon of an instance; locking never goes through it. See :mod:`wdkmutex_shm.grt.session` for
which instance a process is attached to and :mod:`wdkmutex_shm.engines.local.requests` for what is asked of the daemon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from ..base.names import KIND_FAST, KIND_K, KIND_SECTION
from ..core.types import UNSET
from ..engines.local import requests
from ..errors import GrtIsNull
from . import session
from .bulk import GrtMany

if TYPE_CHECKING:
    from .. import CriticalSection, FastMutex, KMutex

__all__ = ["Grt", "unregister_slot"]

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


class Grt(GrtMany):
    """The global reference tracker. All of its methods are static; there is nothing to make an object of.

    Every method that takes a name raises :class:`InvalidName` for one that no mutex can have (it must be 1 to 104 bytes
    of UTF-8 without NUL), :class:`GrtIsNull` where no Grt runs, and :class:`DaemonUnavailable` where its daemon
    does not answer. A process that never called :meth:`init` uses the instance ``WDKMUTEX_INSTANCE`` (else
    ``default``) if that runs. Methods talk to the daemon and block for as long: not for an event loop's thread.
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
            autostart: start the daemon if there is none, now and whenever it is found dead later.
            timeout: seconds that this, and later each call, may take.

        Raises:
            GrtAlreadyExists: this process has called it before and the Grt still exists.
            GrtIsNull: no daemon serves the instance, and ``autostart`` is False.
            DaemonUnavailable: the daemon does not come up in time; the message says what to look into.
            PagedPoolAllocFailed: there is no room in /dev/shm for the pool.
            RuntimeFolderRefused: the folder for sockets is not safe to use.
            InvalidName: no instance can have that name.
        """
        session.init(instance, autostart, timeout)

    @staticmethod
    def instance() -> str | None:
        """The instance that this process is attached to, None if to none."""
        return session.attached_instance()

    @staticmethod
    def detach() -> None:
        """Leave the Grt. The daemon, the mutexes and this process's handles live on. Does nothing when not attached."""
        session.leave()

    @staticmethod
    def destroy() -> None:
        """Destroy every mutex of the instance, for all processes, remove its segments and end its daemon.

        Whoever waits for one of the locks, and whoever uses a handle later, gets :class:`MutexDestroyed`. This process
        is detached, and may call :meth:`init` again.

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
    def unregister(name: str) -> None:
        """Destroy one mutex, for all processes; whoever waits for it gets :class:`MutexDestroyed`.

        Raises:
            KeyNotFound: no mutex has that name. GrtIsEmpty: none has any name.
        """
        requests.unregister(session.current(), name)

    # --- KMutex

    @overload
    @staticmethod
    def register_kmutex(name: str, v: None, type: None = None) -> KMutex[Any]: ...
    @overload
    @staticmethod
    def register_kmutex(name: str, v: V) -> KMutex[V]: ...
    @overload
    @staticmethod
    def register_kmutex(name: str, v: V, type: type[V]) -> KMutex[V]: ...
    @overload
    @staticmethod
    def register_kmutex(name: str, v: Any, type: Any) -> KMutex[Any]: ...
    @staticmethod
    def register_kmutex(name: str, v: Any, type: Any = UNSET) -> Any:
        """Register a KMutex with the first T ``v``. A mutex of that name is destroyed and replaced.

        Args:
            name: of the mutex.
            v: the first T.
            type: T; ``type(v)`` by default, None for anything that msgpack holds.

        IRQL: any.

        Raises:
            TypeError, OverflowError: msgpack cannot hold ``v``, or it is not a ``type``.
            PagedPoolAllocFailed: no room in /dev/shm; what the name stood for still stands.
            MutexDestroyed: another process has overwritten the name already.
        """
        return requests.create(session.current(), name, KIND_K, "overwrite", v, type)

    @overload
    @staticmethod
    def register_kmutex_checked(name: str, v: None, type: None = None) -> KMutex[Any]: ...
    @overload
    @staticmethod
    def register_kmutex_checked(name: str, v: V) -> KMutex[V]: ...
    @overload
    @staticmethod
    def register_kmutex_checked(name: str, v: V, type: type[V]) -> KMutex[V]: ...
    @overload
    @staticmethod
    def register_kmutex_checked(name: str, v: Any, type: Any) -> KMutex[Any]: ...
    @staticmethod
    def register_kmutex_checked(name: str, v: Any, type: Any = UNSET) -> Any:
        """As :meth:`register_kmutex`, but only if the name is free; of several processes one succeeds.

        Raises:
            KeyExists: the name is taken; nothing was changed.
        """
        return requests.create(session.current(), name, KIND_K, "checked", v, type)

    @overload
    @staticmethod
    def get_or_register_kmutex(name: str, v: None, type: None = None) -> KMutex[Any]: ...
    @overload
    @staticmethod
    def get_or_register_kmutex(name: str, v: V) -> KMutex[V]: ...
    @overload
    @staticmethod
    def get_or_register_kmutex(name: str, v: V, type: type[V]) -> KMutex[V]: ...
    @overload
    @staticmethod
    def get_or_register_kmutex(name: str, v: Any, type: Any) -> KMutex[Any]: ...
    @staticmethod
    def get_or_register_kmutex(name: str, v: Any, type: Any = UNSET) -> Any:
        """Return the KMutex of that name, or register it with the first T ``v``; of several processes one does.

        Arguments, IRQL and errors as :meth:`register_kmutex`, and:

        Raises:
            DowncastError: the name is taken by a mutex of another kind, or of another T.
        """
        return requests.create(session.current(), name, KIND_K, "get_or_register", v, type)

    @overload
    @staticmethod
    def get_kmutex(name: str) -> KMutex[Any]: ...
    @overload
    @staticmethod
    def get_kmutex(name: str, T: type[V]) -> KMutex[V]: ...
    @overload
    @staticmethod
    def get_kmutex(name: str, T: Any) -> KMutex[Any]: ...
    @staticmethod
    def get_kmutex(name: str, T: Any = UNSET) -> Any:
        """Return the KMutex of that name.

        Args:
            name: of the mutex.
            T: what it must protect; by default whatever it does.

        Raises:
            KeyNotFound: no mutex has that name. GrtIsEmpty: none has any name.
            DowncastError: it is of another kind, or protects another T.
        """
        return requests.get(session.current(), name, KIND_K, T)

    # --- FastMutex

    @overload
    @staticmethod
    def register_fast_mutex(name: str, v: None, type: None = None) -> FastMutex[Any]: ...
    @overload
    @staticmethod
    def register_fast_mutex(name: str, v: V) -> FastMutex[V]: ...
    @overload
    @staticmethod
    def register_fast_mutex(name: str, v: V, type: type[V]) -> FastMutex[V]: ...
    @overload
    @staticmethod
    def register_fast_mutex(name: str, v: Any, type: Any) -> FastMutex[Any]: ...
    @staticmethod
    def register_fast_mutex(name: str, v: Any, type: Any = UNSET) -> Any:
        """Register a FastMutex with the first T ``v``. A mutex of that name is destroyed and replaced.

        Args:
            name: of the mutex.
            v: the first T.
            type: T; ``type(v)`` by default, None for anything that msgpack holds.

        IRQL: up to DISPATCH.

        Raises:
            TypeError, OverflowError: msgpack cannot hold ``v``, or it is not a ``type``.
            IrqlTooHigh: the thread is above DISPATCH.
            PagedPoolAllocFailed: no room in /dev/shm; what the name stood for still stands.
            MutexDestroyed: another process has overwritten the name already.
        """
        return requests.create(session.current(), name, KIND_FAST, "overwrite", v, type)

    @overload
    @staticmethod
    def register_fast_mutex_checked(name: str, v: None, type: None = None) -> FastMutex[Any]: ...
    @overload
    @staticmethod
    def register_fast_mutex_checked(name: str, v: V) -> FastMutex[V]: ...
    @overload
    @staticmethod
    def register_fast_mutex_checked(name: str, v: V, type: type[V]) -> FastMutex[V]: ...
    @overload
    @staticmethod
    def register_fast_mutex_checked(name: str, v: Any, type: Any) -> FastMutex[Any]: ...
    @staticmethod
    def register_fast_mutex_checked(name: str, v: Any, type: Any = UNSET) -> Any:
        """As :meth:`register_fast_mutex`, but only if the name is free; of several processes one succeeds.

        Raises:
            KeyExists: the name is taken; nothing was changed.
        """
        return requests.create(session.current(), name, KIND_FAST, "checked", v, type)

    @overload
    @staticmethod
    def get_or_register_fast_mutex(name: str, v: None, type: None = None) -> FastMutex[Any]: ...
    @overload
    @staticmethod
    def get_or_register_fast_mutex(name: str, v: V) -> FastMutex[V]: ...
    @overload
    @staticmethod
    def get_or_register_fast_mutex(name: str, v: V, type: type[V]) -> FastMutex[V]: ...
    @overload
    @staticmethod
    def get_or_register_fast_mutex(name: str, v: Any, type: Any) -> FastMutex[Any]: ...
    @staticmethod
    def get_or_register_fast_mutex(name: str, v: Any, type: Any = UNSET) -> Any:
        """Return the FastMutex of that name, or register it with the first T ``v``; of several processes one does.

        Arguments, IRQL and errors as :meth:`register_fast_mutex`, and:

        Raises:
            DowncastError: the name is taken by a mutex of another kind, or of another T.
        """
        return requests.create(session.current(), name, KIND_FAST, "get_or_register", v, type)

    @overload
    @staticmethod
    def get_fast_mutex(name: str) -> FastMutex[Any]: ...
    @overload
    @staticmethod
    def get_fast_mutex(name: str, T: type[V]) -> FastMutex[V]: ...
    @overload
    @staticmethod
    def get_fast_mutex(name: str, T: Any) -> FastMutex[Any]: ...
    @staticmethod
    def get_fast_mutex(name: str, T: Any = UNSET) -> Any:
        """Return the FastMutex of that name.

        Args:
            name: of the mutex.
            T: what it must protect; by default whatever it does.

        Raises:
            KeyNotFound: no mutex has that name. GrtIsEmpty: none has any name.
            DowncastError: it is of another kind, or protects another T.
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
