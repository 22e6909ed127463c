"""Which instance this process is attached to, and its clients.

A process attaches by ``Grt.init`` or, without it, by the first call that needs a Grt. A forked child stays attached to
its parent's instance over a connection of its own, and may call ``init`` itself.
"""

from __future__ import annotations

import os
import time
from _thread import RLock
from typing import NamedTuple

from ..base.forks import in_child, settle
from ..base.names import default_instance, instance_of
from ..engines.driver_errors import from_the_grt
from ..engines.local.address import is_destroyed
from ..engines.local.client import Client
from ..errors import DaemonUnavailable, GrtAlreadyExists, GrtIsNull
from ..objects.handles import forget_segments

__all__ = ["attached_instance", "client_of", "current", "init", "leave"]

_PATIENCE = 1.0
_PAUSE = 0.005


class _Session(NamedTuple):
    instance: str
    client: Client
    pid: int
    """The process that called ``init``, 0 if none did."""


_session: _Session | None = None
_others: dict[str, Client] = {}
_lock = RLock()  # recursive, for a signal handler that comes in between


@in_child
def _forget_parent() -> None:
    global _lock
    _lock = RLock()


def _make(instance: str, *, timeout: float = 10.0, autostart: bool = False) -> Client:
    def revive(left: float) -> None:
        from ..engines.local.autostart import start

        start(instance, left)

    return Client(instance, timeout=timeout, revive=revive if autostart else None, patience=_PATIENCE)


def _is_open(client: Client) -> bool:
    """Tell whether a daemon answers; where none does there is one to be started."""
    try:
        client.open()
    except (GrtIsNull, DaemonUnavailable):
        return False
    return True


@from_the_grt
def init(instance: str | None, autostart: bool, timeout: float) -> None:
    """Attach this process to an instance. See :meth:`wdkmutex_shm.Grt.init`."""
    global _session
    settle()
    name = default_instance() if instance is None else instance_of(instance)
    deadline = time.monotonic() + timeout
    with _lock:
        present = _session
        if present is not None and present.pid == os.getpid() and not is_destroyed(present.instance):
            raise GrtAlreadyExists(
                f"this process is already attached to the Grt of instance {present.instance!r}; leave it first with "
                "Grt.detach(), or end it with Grt.destroy()",
                name=present.instance,
                instance=present.instance,
            )
        while True:
            client = _make(name, timeout=timeout, autostart=autostart)
            if not (autostart and _is_open(client)):
                if autostart:
                    from ..engines.local.autostart import start

                    start(name, max(deadline - time.monotonic(), 0.0))
                client.open()
            if not is_destroyed(name) or time.monotonic() >= deadline:
                break
            client.close()  # a daemon that is destroying its instance: the next one can be started once it has ended
            time.sleep(_PAUSE)
        _session = _Session(name, client, os.getpid())
    if present is not None:
        present.client.close()


def current() -> Client:
    """The client of the attached instance; attaches to the default one where nothing is attached.

    Raises:
        GrtIsNull: no daemon serves the default instance and it has no segments.
        DaemonUnavailable: it has segments but no daemon.
    """
    global _session
    settle()
    session = _session
    if session is None:
        with _lock:
            if _session is None:
                name = default_instance()
                client = _make(name)
                client.open()
                _session = _Session(name, client, 0)
            session = _session
    return session.client


def client_of(instance: str) -> Client:
    """The client of any instance, attached or not: for a mutex that came to this process by other ways."""
    settle()
    session = _session
    if session is not None and session.instance == instance:
        return session.client
    with _lock:
        client = _others.get(instance)
        if client is None:
            client = _others[instance] = _make(instance)
    return client


def attached_instance() -> str | None:
    """The instance that this process is attached to, or None."""
    return None if _session is None else _session.instance


def leave(client: Client | None = None) -> None:
    """Detach this process (only if it is attached through ``client``, when that is given)."""
    global _session
    settle()
    with _lock:
        session = _session
        if session is None or (client is not None and session.client is not client):
            return
        _session = None
    session.client.close()
    forget_segments()
