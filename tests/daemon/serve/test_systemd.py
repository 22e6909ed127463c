"""The daemon as a service: started for a socket that is there already, and telling its manager how far it is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import DEADLINE, wait_until
from wdkmutex_daemon.serve import systemd

from wdkmutex_shm import Grt
from wdkmutex_shm.base import runtime_dir
from wdkmutex_shm.engines.local.client import connect

# What systemd does: the variables name the process that is to have the sockets, which begin at descriptor 3.
PASS_ON = 'exec 3<&"$1"; shift; export LISTEN_PID=$$; exec "$@"'


@pytest.fixture
def listening(instance: str) -> Iterator[socket.socket]:
    os.makedirs(os.path.dirname(runtime_dir.socket_path(instance)), mode=0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(runtime_dir.socket_path(instance))
        sock.listen()
        yield sock


def _start(instance: str, sock: socket.socket, **environment: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "wdkmutex_daemon", "run", "--instance", instance]
    return subprocess.Popen(
        ["bash", "-c", PASS_ON, "bash", str(sock.fileno()), *words],
        pass_fds=[sock.fileno()],
        env={**os.environ, "LISTEN_FDS": "1", **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_serves_at_the_socket_that_it_is_given(instance: str, listening: socket.socket, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(DEADLINE)
        with _start(instance, listening, NOTIFY_SOCKET=str(tmp_path / "notify")) as daemon:
            assert manager.recv(1000).decode() == f"READY=1\nSTATUS=serves instance {instance}"
            Grt.init(instance, autostart=False)
            Grt.register_fast_mutex("n", 5)
            with connect(instance) as client:
                assert client.call("status")["pid"] == daemon.pid
                assert client.path == runtime_dir.socket_path(instance)
                client.call("stop")
            assert manager.recv(1000) == b"STOPPING=1"
            assert daemon.wait(DEADLINE) == 0
            assert daemon.stderr is not None
            assert "Traceback" not in daemon.stderr.read()
    assert os.path.exists(runtime_dir.socket_path(instance)), "it is the manager's"
    with _start(instance, listening) as daemon:  # as the manager does when the next client comes
        with connect(instance, timeout=DEADLINE) as client:
            assert client.call("names")["names"] == ["n"]
            client.call("stop")
        assert daemon.wait(DEADLINE) == 0


@pytest.mark.parametrize("count", ["0", "2", ""])
def test_not_one_socket(instance: str, listening: socket.socket, count: str) -> None:
    with _start(instance, listening, LISTEN_FDS=count) as daemon:
        _, said = daemon.communicate(timeout=DEADLINE)
    assert daemon.returncode != 0
    assert said.count("\n") == 1
    assert "ListenStream=" in said


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_that_does_not_listen(instance: str, runtime_base: str, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_UNIX, kind) as sock, _start(instance, sock) as daemon:
        _, said = daemon.communicate(timeout=DEADLINE)
    assert daemon.returncode != 0
    assert said.count("\n") == 1
    assert "not a listening Unix stream socket" in said


def test_variables_for_another_process_are_not_ours(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getppid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert systemd.listening_socket() is None
    Grt.init(instance)  # the daemon inherits them, and makes a socket of its own
    assert Grt.names() == []


def test_notify(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for address in ("", "relative", str(tmp_path / "nobody")):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        assert not systemd.notify("READY=1")
    name = f"@wdkm-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:])
        manager.settimeout(DEADLINE)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert wait_until(lambda: systemd.notify("READY=1"))
        assert manager.recv(100) == b"READY=1"
