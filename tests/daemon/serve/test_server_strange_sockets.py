"""What is in the place of the socket, who connects to it, and who answers there."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

import pytest
from support import DEADLINE, Fork, kill_daemon, segments

from wdkmutex_shm import Grt
from wdkmutex_shm.base import runtime_dir
from wdkmutex_shm.engines.local import autostart
from wdkmutex_shm.engines.local.client import Client, connect
from wdkmutex_shm.errors import DaemonUnavailable, RuntimeFolderRefused, WdkMutexError
from wdkmutex_shm.protocol.messages import PROTOCOL, Frames, decode_reply, encode_request

ROOT = os.geteuid() == 0
NOBODY = 65534


def test_a_stale_socket(instance: str) -> None:
    path = runtime_dir.socket_path(instance)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(path)
    sock.close()
    Grt.init(instance)
    assert Grt.names() == []


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_something_else_in_its_place(kind: str, instance: str) -> None:
    path = runtime_dir.socket_path(instance)
    if kind == "file":
        with open(path, "w"):
            pass
    elif kind == "folder":
        os.mkdir(path)
    else:
        os.symlink("/etc/passwd", path)
    with pytest.raises(RuntimeFolderRefused, match="rm ") as caught:
        Grt.init(instance)
    assert caught.value.path == path
    assert os.path.lexists(path), "it was not ours to remove"
    assert segments(instance) == []
    os.rmdir(path) if kind == "folder" else os.unlink(path)
    Grt.init(instance)


@pytest.mark.skipif(not ROOT, reason="only root can act as another user")
def test_a_socket_of_another_user(instance: str) -> None:
    """Whoever listens there is asked who he is before anything is said to him."""
    path = runtime_dir.socket_path(instance)
    ready, go = os.pipe()

    def squat() -> bytes:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(path)
        os.setuid(NOBODY)
        sock.listen()
        os.write(go, b"r")
        sock.settimeout(DEADLINE)
        connection, _ = sock.accept()
        connection.settimeout(DEADLINE)
        return connection.recv(100)

    with Fork(squat) as child:
        assert os.read(ready, 1) == b"r"
        with pytest.raises(RuntimeFolderRefused, match=f"uid {NOBODY}") as caught:
            connect(instance)
        assert caught.value.path == path
        assert child.result() == b"", "nothing was said to him"
    os.close(ready)
    os.close(go)
    os.unlink(path)


@pytest.mark.skipif(not ROOT, reason="only root can act as another user")
def test_another_user_is_not_let_in(serves: str, runtime_base: str) -> None:
    path = runtime_dir.socket_path(serves)

    def knock() -> str:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(DEADLINE)
        try:
            sock.connect(path)
        except PermissionError:
            return "no way in"
        frames = Frames()
        with contextlib.suppress(ConnectionError):
            sock.sendall(encode_request("hello", {"protocol": PROTOCOL, "session": 1}))
        while (frame := frames.next()) is None:
            data = sock.recv(1000)
            if not data:
                return "closed"
            frames.feed(data)
        _, error = decode_reply(frame)
        return str(error)

    with Fork(knock) as child:
        assert child.result() == "no way in"
    # Were folder and socket open, the daemon itself would still refuse.
    os.chmod(runtime_base, 0o711)
    os.chmod(f"{runtime_base}/wdkmutex", 0o711)
    os.chmod(path, 0o666)
    try:
        with Fork(knock) as child:
            assert f"not uid {NOBODY}" in child.result()
    finally:
        os.chmod(f"{runtime_base}/wdkmutex", 0o700)
        os.chmod(runtime_base, 0o700)


def test_a_daemon_that_answers_nonsense(instance: str) -> None:
    path = runtime_dir.socket_path(instance)
    replies = [b"", b"\0\0\0\0", b"\xff" * 100, struct.pack("!I", 1) + b"\xc1", struct.pack("!I", 3) + b"\x92\xc3\x01"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(path)
        sock.listen()
        for reply in replies:

            def serve(reply: bytes = reply) -> None:
                connection, _ = sock.accept()
                connection.recv(1000)
                connection.sendall(reply)

            with Fork(serve) as child:
                with pytest.raises(WdkMutexError):
                    Client(instance, timeout=2.0).open()
                child.result()
    os.unlink(path)


def test_a_daemon_that_never_answers(instance: str) -> None:
    path = runtime_dir.socket_path(instance)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(path)
        sock.listen(1)
        with pytest.raises(DaemonUnavailable, match="in time"):
            Client(instance, timeout=0.5).open()
        for _ in range(3):  # and when its backlog is full
            with contextlib.suppress(DaemonUnavailable):
                Client(instance, timeout=0.1).open()
        with pytest.raises(DaemonUnavailable):
            Client(instance, timeout=0.2).open()
    os.unlink(path)


def test_a_socket_of_a_killed_daemon_is_not_taken_for_one(grt: str) -> None:
    kill_daemon(grt)
    assert os.path.exists(runtime_dir.socket_path(grt))
    with pytest.raises(DaemonUnavailable):
        connect(grt)
    assert autostart.start(grt)
