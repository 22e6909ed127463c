"""A daemon that says what a test wants it to say."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from support import DEADLINE

from wdkmutex_shm.base import runtime_dir
from wdkmutex_shm.protocol.messages import PROTOCOL, Frames, decode_request, encode_reply

Answer = Callable[[str, dict[str, Any]], bytes | None]
"""From a request to the bytes to answer it with; None: the connection is closed instead."""


class Pretender:
    """Answers in a daemon's place: it says hello as one does, and to the rest whatever it is told to."""

    def __init__(self, instance: str, answer: Answer) -> None:
        self.path = runtime_dir.socket_path(instance)
        self.answer = answer
        self.epoch = 1
        self.asked: list[str] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._open: list[socket.socket] = []
        self._sock.bind(self.path)
        self._sock.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def hello(self) -> bytes:
        return encode_reply({"protocol": PROTOCOL, "version": "0", "instance": "", "pid": 1, "epoch": self.epoch})

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._sock.accept()
                self._open = [connection]
                with connection, contextlib.suppress(ConnectionError):
                    self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        frames = Frames()
        while True:
            while (frame := frames.next()) is None:
                data = connection.recv(1 << 16)
                if not data:
                    return
                frames.feed(data)
            verb, params = decode_request(frame)
            self.asked.append(verb)
            said = self.answer(verb, params) if verb != "hello" or self.epoch == 0 else self.hello()
            if said is None:
                return
            connection.sendall(said)

    def __enter__(self) -> Pretender:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._sock, *self._open):
            with contextlib.suppress(OSError):  # it may be closed already
                sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        os.unlink(self.path)
        self._thread.join(DEADLINE)
