"""A connection to a daemon on which anything can be sent, and values that no client of the protocol sends."""

from __future__ import annotations

import contextlib
import random
import socket
from typing import Any

import msgpack

from wdkmutex_shm.base import runtime_dir
from wdkmutex_shm.errors import WdkMutexError
from wdkmutex_shm.protocol.messages import PROTOCOL, VERBS, Frames, decode_reply, encode_request

#: Verbs that rightly end the daemon; a random request of them is sent with a field too many.
_ENDING = ("destroy", "stop")
_HEADS = b"\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc4\xc6\xc7\xc9\xca\xcb\xcf\xd3\xd4\xd8\xd9\xdb\xdc\xdd\xde\xdf\xff"


class Peer:
    """A raw connection.

    Args:
        instance: whose daemon.
        hello: say hello first, as a good client does.
        seconds: that anything on it may take.
        path: the socket, where it is not the instance's own.
    """

    def __init__(self, instance: str, *, hello: bool, seconds: float = 30.0, path: str | None = None) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.frames = Frames()
        try:
            self.sock.settimeout(seconds)
            self.sock.connect(path or runtime_dir.socket_path(instance))
            if hello:
                self.sock.sendall(encode_request("hello", {"protocol": PROTOCOL, "session": random.getrandbits(64)}))
                self.reply()
        except BaseException:
            self.sock.close()
            raise

    def send(self, data: bytes) -> bool:
        """Send it all; tells whether the daemon still listened."""
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def reply(self) -> tuple[dict[str, Any] | None, WdkMutexError | None]:
        """The next reply.

        Raises:
            EOFError: the daemon has closed. TimeoutError: it says nothing.
        """
        while (frame := self.frames.next()) is None:
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                raise EOFError("the daemon has closed the connection")
            self.frames.feed(data)
        return decode_reply(frame)

    def wait_closed(self) -> None:
        """Read until the daemon has closed.

        Raises:
            TimeoutError: it does not.
        """
        with contextlib.suppress(EOFError):
            while True:
                self.reply()

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def hostile_value(source: random.Random, depth: int = 3) -> Any:
    """A value of any type that msgpack has, of sizes and at edges that no client sends."""
    kind = source.randrange(9 if depth else 6)
    if kind == 0:
        return source.choice([None, True, False, float("nan"), float("inf"), -0.0])
    if kind == 1:
        return source.choice([-(1 << 63), -1, 0, 1, 7, 255, 1 << 31, 1 << 48, (1 << 63) - 1, (1 << 64) - 1])
    if kind == 2:
        return source.choice(["", "n", "\0", "\u2028" * 40, "x" * 105, "y" * source.randrange(3000), "../../etc"])
    if kind == 3:
        return source.randbytes(source.choice([0, 1, 8, 72, 73, 5000]))
    if kind == 4:
        return msgpack.ExtType(source.randrange(128), source.randbytes(source.randrange(20)))
    if kind == 5:
        return source.getrandbits(64)
    if kind == 6:
        return [hostile_value(source, depth - 1) for _ in range(source.randrange(6))]
    if kind == 7:
        return {hostile_value(source, 0): hostile_value(source, depth - 1) for _ in range(source.randrange(6))}
    value: Any = hostile_value(source, 0)
    for _ in range(source.choice([2, 40, 300])):
        value = [value]
    return value


def hostile_frame(source: random.Random) -> bytes:
    """One frame, its length included, whose body is not what the protocol allows or means nothing there is."""
    kind = source.randrange(5)
    if kind == 0:
        body = source.randbytes(source.choice([1, 2, 5, 30, 400, 5000]))
    elif kind == 1:  # claims that nothing stands behind
        body = b"".join(bytes([source.choice(_HEADS)]) + source.randbytes(4) for _ in range(source.randrange(1, 400)))
    elif kind == 2:  # nested
        body = source.choice([b"\x91", b"\x81\x01", b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01"]) * source.choice(
            [9, 999, 99999]
        )
    else:
        verb = source.choice(list(VERBS))
        known = {**VERBS[verb].required, **VERBS[verb].optional}
        fields: dict[Any, Any] = {field: _field(source, field) for field in known if source.random() < 0.8}
        if kind == 3 or verb in _ENDING:
            fields[source.choice(["more", 7, b"z", "request\0"])] = hostile_value(source)
        if verb == "register" and type(fields.get("name")) is str:
            fields["name"] = f"hostile {source.randrange(20)}"
        body = msgpack.packb([verb, fields])
    body = body[: 1 << 20]
    return len(body).to_bytes(4, "big") + body


def _field(source: random.Random, field: str) -> Any:
    """A value for a field: most often one that a client could send."""
    good: dict[str, Any] = {
        "name": f"hostile {source.randrange(20)}",
        "kind": source.randrange(1, 4),
        "mode": source.choice(["overwrite", "checked", "get_or_register"]),
        "tag": [source.randrange(256), source.getrandbits(64), source.randbytes(source.randrange(25))],
        "payload": source.randbytes(source.randrange(1, 72)),
        "data": source.choice([None, [source.getrandbits(63) | 1, 100]]),
    }
    if field in good and source.random() < 0.7:
        return good[field]
    return hostile_value(source)
