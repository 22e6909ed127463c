"""The daemon at its limits: slow and stalled readers, a crowd at the acceptor, more replies than it remembers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
import socket
import time
from collections.abc import Iterator

import pytest
from peer import Peer
from support import Fork, daemon_pid, wait_until
from wdkmutex_daemon.serve import acceptor as doors
from wdkmutex_daemon.serve import service as services
from wdkmutex_daemon.serve.acceptor import Acceptor
from wdkmutex_daemon.serve.connection import STALL_SECONDS, Connection
from wdkmutex_daemon.serve.registry import Registry
from wdkmutex_daemon.serve.service import Service

from wdkmutex_shm import FastMutex, Grt
from wdkmutex_shm.base import runtime_dir
from wdkmutex_shm.base.names import instance_prefix
from wdkmutex_shm.errors import ProtocolError
from wdkmutex_shm.pool.pool import Pool
from wdkmutex_shm.protocol.messages import PROTOCOL, encode_reply, encode_request


@pytest.fixture
def service(instance: str) -> Iterator[Service]:
    """What a daemon's connections share, in this process and with a pool of its own."""
    pool = Pool.open(instance_prefix(instance))
    yield Service(instance, "", Registry(pool, instance), dict, lambda gone: None)
    pool.destroy()


# --- slow readers


def test_who_reads_late_gets_all_replies_and_then_the_refusal(grt: str) -> None:
    """Replies wait in the daemon when it gives the connection up for a bad frame: first they are sent."""
    Grt.register_many(FastMutex, {f"name-{number:05}": number for number in range(4000)})
    ask = encode_request("names", {})
    with Peer(grt) as peer:
        peer.send(ask)
        first, error = peer.reply()
        assert error is None
        assert first is not None
        count = 380_000 // len(encode_reply(first))  # the kernel takes less, the daemon keeps more
        peer.send(ask * count + b"\0\0\0\0")
        with open(runtime_dir.log_path(grt), encoding="utf-8") as log:
            wait_until(lambda: "refused" in log.read(), "the bad frame is seen")
        for _ in range(count):
            body, error = peer.reply()
            assert error is None
            assert body is not None and len(body["names"]) == 4000
        body, error = peer.reply()
        assert isinstance(error, ProtocolError)
        assert peer.closed()


@pytest.mark.parametrize("unfinished", [b"", b"\0\0"])
def test_who_stalls_is_ended(service: Service, unfinished: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Half a frame, for more than half a minute by the clock that the timer passes."""

    async def talk() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        loop = asyncio.get_running_loop()
        with ours:
            connection = Connection(service, theirs)
            ours.setblocking(False)
            ours.sendall(encode_request("hello", {"protocol": PROTOCOL, "session": 1}) + unfinished)
            assert await loop.sock_recv(ours, 1000)
            now = time.monotonic()
            connection.end_if_stalled(now + STALL_SECONDS - 5)
            assert connection in service.connections
            connection.end_if_stalled(now + STALL_SECONDS + 5)
            assert (connection in service.connections) == (not unfinished)
            connection.abort()
            connection.abort()
            assert await loop.sock_recv(ours, 1000) == b""
        assert service.connections == set()

    asyncio.run(talk())
    assert ("stalled" in caplog.text) == bool(unfinished)


# --- what is remembered


def test_replies_are_forgotten_when_there_are_too_many(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_SESSIONS", 3)
    for session in range(5):
        service.remember(session, 1, b"reply")
    assert list(service.replies) == [2, 3, 4]
    service.remember(2, 2, b"newer")  # who comes again is the youngest
    service.remember(9, 1, b"reply")
    assert list(service.replies) == [4, 2, 9]
    assert service.replies[2] == (2, b"newer")


def test_replies_are_forgotten_when_they_are_too_long(service: Service) -> None:
    """However long they are, the daemon keeps 16 MiB of them."""
    for session in range(40):
        service.remember(session, 1, bytes(1 << 20))
    assert list(service.replies) == list(range(24, 40))
    service.remember(39, 2, b"")
    service.remember(50, 1, bytes(1 << 20))
    assert len(service.replies) == 17


# --- the acceptor


def test_a_crowd_that_comes_at_once(serves: str) -> None:
    """More than are let in at one go knock while the daemon cannot look: all of them are served."""
    pid = daemon_pid(serves)
    with contextlib.ExitStack() as stack:
        os.kill(pid, signal.SIGSTOP)
        try:
            peers = [stack.enter_context(Peer(serves, hello=False)) for _ in range(250)]
            for peer in peers:
                peer.send(encode_request("hello", {"protocol": PROTOCOL, "session": random.getrandbits(64)}))
        finally:
            os.kill(pid, signal.SIGCONT)
        assert all(peer.reply()[1] is None for peer in peers)


def test_a_door_that_is_closed_stays_closed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is to be opened again when descriptors are free, but the daemon ends before."""
    monkeypatch.setattr(doors, "_AGAIN_SECONDS", 0.01)

    async def crowd() -> tuple[bool, int]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.bind("")
            sock.listen()
            acceptor = Acceptor(service, sock)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                limit = resource.getrlimit(resource.RLIMIT_NOFILE)
                client.connect(sock.getsockname())
                resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, limit[1]))
                with contextlib.suppress(OSError):
                    while True:
                        os.dup(2)
                await asyncio.sleep(0.1)
                shut_out = not service.connections
                acceptor.close()
                resource.setrlimit(resource.RLIMIT_NOFILE, limit)
                await asyncio.sleep(0.1)
                return shut_out, len(service.connections)

    with Fork(lambda: asyncio.run(crowd())) as child:
        assert child.result() == (True, 0)
