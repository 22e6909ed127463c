"""The daemon's side of the socket: connections, and what they share.

A connection is never trusted: its peer's uid is checked, its first request must be a hello and must come in time, a
frame has a cap, and no more of its requests are read while it does not read its replies. Whatever it does ends in an
error reply or in its own end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from wdkmutex_shm.errors import GrtError, ProtocolError, WdkMutexError
from wdkmutex_shm.protocol import Frames, check_request, decode_request, encode_error, encode_reply

from .handlers import HANDLERS
from .registry import Registry

__all__ = ["HELLO_SECONDS", "STALL_SECONDS", "Connection", "Service"]

log = logging.getLogger(__name__)

HELLO_SECONDS = 5.0
"""How long a client may take to say hello."""

STALL_SECONDS = 30.0
"""How long a client may leave a frame unfinished, or its replies unread."""

_HIGH_WATER = 1 << 18
_TURN = 64
_SESSIONS = 1 << 14
_PEER = struct.Struct("3i")


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
        ended: set when the daemon is to end.
        replies: the last numbered request of each client session, and the reply to it.
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
        self.connections: set[Connection] = set()
        self.replies: dict[int, tuple[int, bytes]] = {}
        self._retire = retire

    def stop(self, *, gone: bool = False) -> None:
        """Begin to end. ``gone``: the instance was destroyed."""
        if not self.ended.is_set():
            self.ended.set()
            self._retire(gone)

    def remember(self, session: int, request: int, reply: bytes) -> None:
        """Keep the reply to the last numbered request of a session, in case that the client asks again."""
        self.replies.pop(session, None)
        self.replies[session] = (request, reply)
        if len(self.replies) > _SESSIONS:
            del self.replies[next(iter(self.replies))]

    def end_stalled(self) -> None:
        """End the connections that have been stalled for too long."""
        now = time.monotonic()
        for connection in list(self.connections):
            connection.end_if_stalled(now)


class Connection(asyncio.Protocol):
    """One client.

    Attributes:
        session: random number of the client's, None before its hello.
        snapshots: lists of names that the client is reading in pages.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.session: int | None = None
        self.snapshots: dict[int, list[bytes]] = {}
        self.next_snapshot = 1
        self.peer = 0
        self._frames = Frames()
        self._transport: asyncio.Transport
        self._hello: asyncio.TimerHandle | None = None
        self._unread = False  # the client does not read its replies fast enough
        self._behind = False  # requests are waiting for our next turn
        self._stalled: float | None = None

    # --- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.service.connections.add(self)
        sock = transport.get_extra_info("socket")
        self.peer, uid, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if uid != os.geteuid():
            self._refuse(ProtocolError(f"this daemon serves uid {os.geteuid()}, not uid {uid}"))
            return
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._hello = asyncio.get_running_loop().call_later(HELLO_SECONDS, self._no_hello)

    def connection_lost(self, exc: Exception | None) -> None:
        self.service.connections.discard(self)
        if self._hello is not None:
            self._hello.cancel()

    def data_received(self, data: bytes) -> None:
        self._frames.feed(data)
        if not (self._unread or self._behind):
            self._work()

    def pause_writing(self) -> None:
        self._unread = True
        self._stalled = time.monotonic()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._unread = False
        self._stalled = None
        if not self._behind:
            self._work()

    # --- the end of a connection

    def _refuse(self, error: WdkMutexError) -> None:
        log.warning("client pid %d refused: %s", self.peer, error)
        self._transport.write(encode_error(error))
        self._transport.close()

    def _no_hello(self) -> None:
        log.warning("client pid %d did not say hello within %g s", self.peer, HELLO_SECONDS)
        self._transport.abort()

    def end_if_stalled(self, now: float) -> None:
        """End the connection if a frame is unfinished, or replies are unread, for too long."""
        if self._stalled is not None and now - self._stalled > STALL_SECONDS:
            log.warning("client pid %d stalled for %g s: connection ended", self.peer, STALL_SECONDS)
            self._transport.abort()

    def end(self) -> None:
        """Close the connection as soon as what was written is sent."""
        self._transport.close()

    # --- requests

    def _work(self) -> None:
        """Answer the requests that are here: a few, then the other clients have their turn."""
        transport, frames = self._transport, self._frames
        self._behind = False
        done = 0
        while done < _TURN:
            if self._unread or transport.is_closing():
                return
            try:
                frame = frames.next()
                if frame is None:
                    break
                verb, params = decode_request(frame)
            except ProtocolError as error:
                self._refuse(error)
                return
            self._answer(verb, params)
            done += 1
        else:
            self._behind = True
            transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._work)
            return
        if not frames.pending:
            self._stalled = None
        elif done or self._stalled is None:
            self._stalled = time.monotonic()
        if not transport.is_closing():
            transport.resume_reading()

    def _answer(self, verb: str, params: dict[str, Any]) -> None:
        if self.session is None and verb != "hello":
            self._refuse(ProtocolError("the first request of a connection is hello"))
            return
        service, transport = self.service, self._transport
        if service.ended.is_set():
            transport.close()  # the client asks whoever comes after us
            return
        request = params.get("request")
        if request is not None and self.session is not None:
            known = service.replies.get(self.session)
            if known is not None and known[0] == request:
                transport.write(known[1])
                return
        try:
            check_request(verb, params)
            reply = encode_reply(HANDLERS[verb](service, self, params))
        except WdkMutexError as error:
            if isinstance(error, GrtError):
                error.facts.setdefault("instance", service.instance)
            reply = encode_error(error)
        except Exception as error:
            log.exception("%s from client pid %d failed", verb, self.peer)
            reply = encode_error(error)
        if request is not None and self.session is not None and type(request) is int:
            service.remember(self.session, request, reply)
        transport.write(reply)
        if verb == "hello" and self._hello is not None:
            self._hello.cancel()
            self._hello = None
            if self.session is None:
                transport.close()
