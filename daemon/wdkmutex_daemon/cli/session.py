"""What verbs ask of the daemon, and of a mutex that it knows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wdkmutex_shm.engines.local.client import Client

__all__ = ["attach", "connect", "find", "info", "is_serving", "revived", "wait_for_end"]

_LOOK_EVERY = 0.01


def connect(instance: str, timeout: float = 10.0) -> Client:
    """Connect to the daemon of ``instance``. Errors as :func:`wdkmutex_shm.engines.local.client.connect`."""
    from wdkmutex_shm.engines.local.client import connect as connect_to

    return connect_to(instance, timeout=timeout)


def revived(instance: str) -> Client:
    """As :func:`connect`, but where the instance has mutexes and no daemon, start one.

    For verbs that make no sense to refuse then: what a daemon left behind could not be destroyed without one.
    """
    from wdkmutex_shm.engines.local.autostart import start
    from wdkmutex_shm.engines.local.client import Client

    client = Client(instance, revive=lambda left: start(instance, left))
    client.open()
    return client


def is_serving(instance: str) -> bool:
    """Whether a daemon answers for ``instance``."""
    from wdkmutex_shm.errors import DaemonUnavailable, GrtIsNull

    try:
        connect(instance).close()
    except (GrtIsNull, DaemonUnavailable):
        return False
    return True


def wait_for_end(pid: int, start: int | None, timeout: float) -> bool:
    """Wait until a process has ended. Tells whether it has.

    Args:
        pid: the process. start: its start time, as :func:`wdkmutex_shm.base.identity.start_time` told.
        timeout: seconds.
    """
    from wdkmutex_shm.base.identity import is_dead

    deadline = time.monotonic() + timeout
    while not is_dead(pid, start):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_EVERY)
    return True


def info(client: Client, name: str) -> dict[str, Any]:
    """What the daemon knows of the mutex ``name``: the fields of ``SlotInfo``.

    Raises:
        InvalidName, KeyNotFound, GrtIsEmpty.
    """
    from wdkmutex_shm.base.names import check_name

    check_name(name)
    return client.call("info", name=name)


def attach(facts: dict[str, Any]) -> Any:
    """A handle to the mutex that :func:`info` told of: of whatever kind, with whatever T.

    Raises:
        MutexDestroyed: it has gone since.
    """
    from wdkmutex_shm.base.names import KIND_WORDS
    from wdkmutex_shm.base.records import SlotRef
    from wdkmutex_shm.objects.handles import attach as attach_to

    kind = next(number for number, word in KIND_WORDS.items() if word == facts["kind"])
    ref = SlotRef(facts["segment"], facts["nonce"], facts["slot"], facts["generation"])
    return attach_to(ref, kind, name=facts["name"])


def find(instance: str, name: str) -> Any:
    """A handle to the mutex ``name`` of a running instance."""
    with connect(instance) as client:
        return attach(info(client, name))
