"""A connection to the daemon on which anything can be sent."""

from __future__ import annotations

import contextlib
import random
import socket
from typing import Any

from support import DEADLINE

from wdkmutex_shm.base import runtime_dir
from wdkmutex_shm.errors import WdkMutexError
from wdkmutex_shm.protocol.messages import PROTOCOL, Frames, decode_reply, encode_request


class Peer:
    """A connection to the daemon on which anything can be sent."""

    def __init__(self, instance: str, *, hello: bool = True) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(runtime_dir.socket_path(instance))
        self._frames = Frames()
        if hello:
            body, error = self.ask("hello", protocol=PROTOCOL, session=random.getrandbits(64))
            assert error is None
            assert body is not None

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def ask(self, verb: str, **params: Any) -> tuple[dict[str, Any] | None, WdkMutexError | None]:
        self.send(encode_request(verb, params))
        return self.reply()

    def reply(self) -> tuple[dict[str, Any] | None, WdkMutexError | None]:
        """The next reply; EOFError when the daemon has closed."""
        while (frame := self._frames.next()) is None:
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                raise EOFError
            self._frames.feed(data)
        return decode_reply(frame)

    def closed(self) -> bool:
        """Wait until the daemon has closed, whatever it says before."""
        with contextlib.suppress(EOFError):
            while True:
                self.reply()
        return True

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()
