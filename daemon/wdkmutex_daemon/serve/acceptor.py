"""Where clients come in: the daemon's listening socket."""

from __future__ import annotations

import asyncio
import logging
import socket

from .connection import Connection
from .service import Service

__all__ = ["Acceptor"]

log = logging.getLogger(__name__)

_AT_ONCE = 100
_AGAIN_SECONDS = 1.0


class Acceptor:
    """Accepts connections until it is closed. While there is no descriptor for one more, clients wait outside.

    Args:
        service: the daemon.
        sock: a listening socket; it is not closed here.
    """

    def __init__(self, service: Service, sock: socket.socket) -> None:
        self._service = service
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._closed = False
        sock.setblocking(False)
        self._open()

    def _open(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                client, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor or no memory: who knocks waits
                log.warning("no further client can be let in now: %s", error)
                self._loop.remove_reader(self._sock)
                self._loop.call_later(_AGAIN_SECONDS, self._open)
                return
            try:
                Connection(self._service, client)
            except OSError as error:
                log.warning("a client was gone before it was let in: %s", error)
                client.close()

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True
        self._loop.remove_reader(self._sock)
