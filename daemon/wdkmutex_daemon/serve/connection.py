"""The daemon's side of a socket: one connection.

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
from typing import Any

from wdkmutex_shm.errors import GrtError, ProtocolError, WdkMutexError
from wdkmutex_shm.protocol.messages import Frames, check_request, decode_request, encode_error, encode_reply

from .handlers import HANDLERS
from .service import Service, Session

__all__ = ["HELLO_SECONDS", "STALL_SECONDS", "Connection"]

log = logging.getLogger(__name__)

HELLO_SECONDS = 5.0
"""How long a client may take to say hello."""

STALL_SECONDS = 30.0
"""How long a client may leave a frame unfinished, or its replies unread."""

_HIGH_WATER = 1 << 18
_LOW_WATER = 1 << 16
_TURN = 0.002
_PEER = struct.Struct("3i")


class Connection:
    """One client. It is served from here on, until :meth:`end` or :meth:`abort`.

    The socket is read and written without asyncio's transports, which cost more than most requests do.

    Args:
        service: the daemon.
        sock: the connected socket.

    Attributes:
        session: who the client is.
    """

    def __init__(self, service: Service, sock: socket.socket) -> None:
        self.service = service
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._frames = Frames()
        self._unsent = bytearray()
        self._reading = False
        self._ending = False  # to be closed as soon as all is sent
        self._closed = False
        self._unread = False  # the client does not read its replies fast enough
        self._stalled: float | None = None
        sock.setblocking(False)
        pid, uid, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        self.session = Session(pid, service.snapshots)
        service.connections.add(self)
        self._hello: asyncio.TimerHandle | None = self._loop.call_later(HELLO_SECONDS, self._no_hello)
        if uid == os.geteuid():
            self._read(True)
        else:
            self._refuse(ProtocolError(f"this daemon serves uid {os.geteuid()}, not uid {uid}"))

    # --- bytes

    def _read(self, reading: bool) -> None:
        """Let the loop tell us of what the client sends, or not."""
        if reading is not self._reading and not self._closed:
            self._reading = reading
            if reading:
                self._loop.add_reader(self._sock, self._readable)
            else:
                self._loop.remove_reader(self._sock)

    def _readable(self) -> None:
        room = self.service.room
        try:
            count = self._sock.recv_into(room)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            count = 0
        if count:
            self._frames.feed(memoryview(room)[:count])
            self._work()  # whose requests are not to be read now is not read from
        else:
            self.abort()

    def _send(self, data: bytes) -> None:
        sent = 0
        if not self._unsent:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self.abort()
                return
            if sent == len(data):
                return
            self._loop.add_writer(self._sock, self._writable)
        self._unsent += data[sent:]
        if len(self._unsent) > _HIGH_WATER and not self._unread:
            self._unread = True
            self._stalled = time.monotonic()
            self._read(False)

    def _writable(self) -> None:
        try:
            sent = self._sock.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.abort()
            return
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._sock)
            if self._ending:
                self.abort()
                return
        if self._unread and len(self._unsent) <= _LOW_WATER:
            self._unread = False
            self._stalled = None
            self._work()

    # --- the end of a connection

    def abort(self) -> None:
        """Close the connection now."""
        if self._closed:
            return
        self._read(False)
        self._ending = self._closed = True
        self._loop.remove_writer(self._sock)
        self._sock.close()
        self.session.reading.end()
        self.service.connections.discard(self)
        if self._hello is not None:
            self._hello.cancel()

    def end(self) -> None:
        """Close the connection as soon as what was written is sent."""
        self._ending = True
        self._read(False)
        if not self._unsent:
            self.abort()
        elif self._stalled is None:
            self._stalled = time.monotonic()  # who never reads it does not stay for that

    def _refuse(self, error: WdkMutexError) -> None:
        log.warning("client pid %d refused: %s", self.session.pid, error)
        self._send(encode_error(error))
        self.end()

    def _no_hello(self) -> None:
        log.warning("client pid %d did not say hello within %g s", self.session.pid, HELLO_SECONDS)
        self.abort()

    def end_if_stalled(self, now: float) -> None:
        """End the connection if a frame is unfinished, or replies are unread, for too long."""
        if self._stalled is not None and now - self._stalled > STALL_SECONDS:
            log.warning("client pid %d stalled for %g s: connection ended", self.session.pid, STALL_SECONDS)
            self.abort()

    # --- requests

    def _work(self) -> None:
        """Answer the requests that are here: for a moment, then the other clients have their turn."""
        frames = self._frames
        begun = time.monotonic()
        done = 0
        while not (self._unread or self._ending):
            if done and time.monotonic() - begun > _TURN:
                self._read(False)
                self._loop.call_soon(self._work)
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
            return
        if not frames.pending:
            self._stalled = None
        elif done or self._stalled is None:
            self._stalled = time.monotonic()
        self._read(True)

    def _answer(self, verb: str, params: dict[str, Any]) -> None:
        if self.session.number is None and verb != "hello":
            self._refuse(ProtocolError("the first request of a connection is hello"))
            return
        service = self.service
        if service.ended.is_set():
            self.end()  # the client asks whoever comes after us
            return
        request = params.get("request")
        if request is not None and self.session.number is not None:
            known = service.replies.get(self.session.number)
            if known is not None and known[0] == request:
                self._send(known[1])
                return
        try:
            check_request(verb, params)
            reply = encode_reply(HANDLERS[verb](service, self.session, params))
        except WdkMutexError as error:
            if isinstance(error, GrtError):
                error.facts.setdefault("instance", service.instance)
            reply = encode_error(error)
        except Exception as error:
            log.exception("%s from client pid %d failed", verb, self.session.pid)
            reply = encode_error(error)
        if request is not None and self.session.number is not None and type(request) is int:
            service.remember(self.session.number, request, reply)
        self._send(reply)
        if verb == "hello" and self._hello is not None:
            self._hello.cancel()
            self._hello = None
            if self.session.number is None:
                self.end()
