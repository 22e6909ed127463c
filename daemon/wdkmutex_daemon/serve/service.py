"""What the connections of one daemon share, and who a client is.

A handler is given both and knows no sockets; a connection carries bytes and knows no verbs.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any, Protocol

from .listings import Reading, Snapshots
from .registry import Registry

__all__ = ["Client", "Service", "Session"]

_RECEIVE = 1 << 16
_SESSIONS = 1 << 14
_REMEMBERED = 1 << 24


class Session:
    """Who a client is.

    Args:
        pid: its process.
        snapshots: the lists of names of the daemon.

    Attributes:
        number: random number of the client's, the same in all of its connections; None before its hello.
        reading: the lists of names that the client is reading in pages.
    """

    def __init__(self, pid: int, snapshots: Snapshots) -> None:
        self.pid = pid
        self.number: int | None = None
        self.reading = Reading(snapshots)


class Client(Protocol):
    """A connection, as far as the service has to do with it."""

    def end(self) -> None:
        """Close it as soon as what was written is sent."""

    def abort(self) -> None:
        """Close it now."""

    def end_if_stalled(self, now: float) -> None:
        """End it if it has been stalled for too long."""


class Service:
    """One daemon: what all of its connections share.

    Args:
        instance: name of the instance.
        path: its socket path.
        registry: its names.
        sweep: removes what dead processes left and returns the fields of the reply to ``sweep``.
        retire: called once when the end begins, before the last reply: the socket and the lock must be given up.
            Its argument tells whether the instance itself is gone.

    Attributes:
        epoch: a random number, one for each life of a daemon.
        ended: set when the daemon is to end. lost: because files that it needs were removed.
        replies: the last numbered request of each client session, and the reply to it.
        snapshots: the lists of names that clients read.
        room: where connections receive what is sent to them, one at a time.
    """

    def __init__(
        self,
        instance: str,
        path: str,
        registry: Registry,
        sweep: Callable[[], dict[str, Any]],
        retire: Callable[[bool], None],
    ) -> None:
        import wdkmutex_shm

        self.instance = instance
        self.path = path
        self.registry = registry
        self.sweep = sweep
        self.version: str = getattr(wdkmutex_shm, "__version__", "0")
        self.started = time.time()
        self.epoch = int.from_bytes(os.urandom(8), "big")
        self.ended = asyncio.Event()
        self.lost = False
        self.connections: set[Client] = set()
        self.replies: dict[int, tuple[int, bytes]] = {}
        self.snapshots = Snapshots(registry)
        self.room = bytearray(_RECEIVE)
        self._remembered = 0
        self._retire = retire

    def stop(self, *, gone: bool = False, lost: bool = False) -> None:
        """Begin to end. ``gone``: the instance was destroyed. ``lost``: files that the daemon needs were removed."""
        if not self.ended.is_set():
            self.lost = lost
            self.ended.set()
            self._retire(gone)

    def remember(self, session: int, request: int, reply: bytes) -> None:
        """Keep the reply to the last numbered request of a session, in case that the client asks again."""
        old = self.replies.pop(session, None)
        self.replies[session] = (request, reply)
        self._remembered += len(reply) - (len(old[1]) if old is not None else 0)
        while len(self.replies) > _SESSIONS or self._remembered > _REMEMBERED:
            self._remembered -= len(self.replies.pop(next(iter(self.replies)))[1])

    def end_stalled(self) -> None:
        """End the connections that have been stalled for too long."""
        now = time.monotonic()
        for connection in list(self.connections):
            connection.end_if_stalled(now)
