"""How a daemon begins and ends where something is in its way: who holds what it needs, and what was taken from it."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from commands import Command
from peer import Peer
from support import DEADLINE, Fork, daemon_pid, gone, wait_until

from wdkmutex_shm import Grt, MutexDestroyed
from wdkmutex_shm.base import runtime_dir
from wdkmutex_shm.base.lockfile import LockFile
from wdkmutex_shm.base.names import instance_prefix
from wdkmutex_shm.engines.local.client import connect
from wdkmutex_shm.memory import data_segments, shm
from wdkmutex_shm.protocol.messages import READY

pytestmark = pytest.mark.slow  # each of them waits for processes


def _run(instance: str, *more: str, code: int | None = None) -> str:
    """What a daemon in the foreground says until it ends by itself."""
    done = subprocess.run(
        [sys.executable, "-m", "wdkmutex_daemon", "run", "--instance", instance, *more],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    assert code is None or done.returncode == code, done.stderr
    assert code is not None or done.returncode != 0, done.stderr
    return done.stderr


@contextlib.contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


# --- the beginning


def test_somebody_else_holds_the_lock_file(instance: str) -> None:
    lock = LockFile(runtime_dir.lock_path(instance))
    assert lock.try_acquire()
    try:
        said = _run(instance)
    finally:
        lock.release(remove=True)
    assert f"fuser {lock.path}" in said
    assert said.count("\n") == 1


def test_a_daemon_elsewhere_that_is_stopped_is_named(
    grt: str, runtime_base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has another runtime folder, but there is one pool: who listens for it lives, even if it does not answer."""
    Grt.register_fast_mutex("n", 5)
    pid = daemon_pid(grt)
    other = f"{runtime_base}/cron"
    os.mkdir(other, 0o700)
    with monkeypatch.context() as patch, _stopped(pid):
        patch.setenv("XDG_RUNTIME_DIR", other)
        said = _run(grt)
    assert f"pid {pid} at {runtime_dir.socket_path(grt)}" in said
    assert Grt.get_fast_mutex("n", int).peek() == 5
    assert os.listdir(f"{other}/wdkmutex") == [], "its lock and socket are gone with it"


def test_a_stopped_daemon_whose_folder_was_removed_is_named(grt: str) -> None:
    """Nobody can reach it, and while it lives nobody may write its pool: the way out is said."""
    mutex = Grt.register_fast_mutex("n", 5)
    pid = daemon_pid(grt)
    with _stopped(pid):
        shutil.rmtree(os.path.dirname(runtime_dir.socket_path(grt)))
        said = _run(grt)
    assert f"kill -9 {pid}" in said
    wait_until(lambda: gone(pid), "it notices, and ends")
    Grt.init(grt) if Grt.instance() is None else None
    assert Grt.get_fast_mutex("n", int) == mutex


def test_a_daemon_that_is_not_needed_says_ready(grt: str) -> None:
    """Two were started at once: both starters are told that one serves."""
    for more in ((), ("--detach",)):
        receiving, sending = os.pipe()
        words = [sys.executable, "-m", "wdkmutex_daemon", "run", "--instance", grt, "--ready-fd", str(sending), *more]
        done = subprocess.run(words, pass_fds=[sending], capture_output=True, timeout=DEADLINE, check=False)
        os.close(sending)
        assert done.returncode == 0, done.stderr
        assert os.read(receiving, 100) == READY
        assert os.read(receiving, 100) == b""
        os.close(receiving)
    assert Grt.names() == []


def test_a_starter_that_does_not_wait(instance: str) -> None:
    """Nobody reads the pipe any more: the daemon serves all the same."""
    receiving, sending = os.pipe()
    os.close(receiving)
    words = [sys.executable, "-m", "wdkmutex_daemon", "run", "--instance", instance, "--detach", "--ready-fd"]
    done = subprocess.run([*words, str(sending)], pass_fds=[sending], timeout=DEADLINE, check=False)
    os.close(sending)
    assert done.returncode == 0
    wait_until(lambda: os.path.exists(runtime_dir.socket_path(instance)))
    Grt.init(instance, autostart=False)
    assert Grt.names() == []


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_detached_from_a_caller_without_input_or_output(instance: str, closed: str) -> None:
    """What is closed is not where the socket or the log comes to lie; the log is written."""
    words = f'exec "$@" {closed}'
    done = subprocess.run(
        ["sh", "-c", words, "sh", sys.executable, "-m", "wdkmutex_daemon", "run", "--instance", instance, "--detach"],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    wait_until(lambda: os.path.exists(runtime_dir.socket_path(instance)))
    Grt.init(instance, autostart=False)
    pid = daemon_pid(instance)
    log = runtime_dir.log_path(instance)
    assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null", log, log]
    with open(log, encoding="utf-8") as file:
        assert f"serves instance '{instance}'" in file.read()


def test_a_verb_without_output_to_write_to(grt: str) -> None:
    for closed in (">&-", "2>&-"):
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", *Command(grt).words("status", "--instance", grt)],
            capture_output=True, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""


def test_a_long_log_of_an_earlier_life_is_begun_anew(instance: str) -> None:
    path = runtime_dir.log_path(instance)
    for size, kept in ((1 << 20, True), ((1 << 20) + 1, False)):
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n" * size)
        Grt.init(instance)
        Grt.detach()
        Command(instance)("stop")
        assert (os.path.getsize(path) > 1 << 20) == kept
        with open(path, encoding="utf-8") as file:
            assert "serves instance" in file.read()


def test_a_low_soft_limit_of_descriptors_is_raised(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    command = f"sh -c 'ulimit -Sn 100; exec \"$@\"' sh {sys.executable} -m wdkmutex_daemon"
    monkeypatch.setenv("WDKMUTEX_DAEMON", command)
    Grt.init(instance)
    soft, _ = resource.prlimit(daemon_pid(instance), resource.RLIMIT_NOFILE)
    assert soft == (1 << 16 if hard == resource.RLIM_INFINITY else min(hard, 1 << 16))


# --- what is put into its place


def test_another_socket_in_its_place_ends_it_and_stays(grt: str) -> None:
    pid = daemon_pid(grt)
    path = runtime_dir.socket_path(grt)
    with _stopped(pid), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        os.unlink(path)
        sock.bind(path)
        mine = os.lstat(path).st_ino
    wait_until(lambda: gone(pid), "the end of a daemon whose place was taken")
    assert os.lstat(path).st_ino == mine, "it is not the daemon's to remove"
    os.unlink(path)
    Grt.names()


def test_another_file_in_its_pools_place_ends_it(grt: str) -> None:
    mutex = Grt.register_fast_mutex("n", 5)
    pid = daemon_pid(grt)
    path = f"{shm.FOLDER}{instance_prefix(grt)}.p0"
    with _stopped(pid):
        os.rename(path, path + "x")
        with open(path, "xb"):
            pass
    wait_until(lambda: gone(pid), "the end of a daemon without its pool")
    with pytest.raises(MutexDestroyed):
        mutex.fetch_add(1)
    assert os.path.getsize(path) == 0, "it is not the daemon's to remove"
    os.rename(path + "x", path)
    assert Grt.names() == [], "it was destroyed, and stays so"


def test_the_managers_socket_is_not_missed(instance: str) -> None:
    """systemd's socket is systemd's: a daemon that was given one goes on when its path is removed."""
    path = runtime_dir.socket_path(instance)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(path)
        sock.listen()
        daemon = subprocess.Popen(
            ["bash", "-c", 'exec 3<&"$1"; shift; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"', "bash",
             str(sock.fileno()), sys.executable, "-m", "wdkmutex_daemon", "run", "--instance", instance],
            pass_fds=[sock.fileno()],
        )  # fmt: skip
        with Peer(instance) as peer:
            os.unlink(path)
            prefix = instance_prefix(instance)
            with Fork(lambda: data_segments.create(prefix, b"x" * 1000)) as child:
                child.result()
            wait_until(lambda: shm.listing(prefix + ".d") == [], "a round of its housekeeping")
            assert daemon.poll() is None
            _, error = peer.ask("destroy")
            assert error is None
        assert daemon.wait(DEADLINE) == 0


# --- the end


def test_it_ends_once_however_often_it_is_told(serves_not: str) -> None:
    """A stop and two signals come at the same moment."""
    pid = daemon_pid(serves_not)
    with Peer(serves_not) as peer:
        with _stopped(pid):
            peer.send(b"".join(_request("stop") for _ in range(3)))
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
        assert peer.closed()
    wait_until(lambda: gone(pid))
    assert not os.path.exists(runtime_dir.socket_path(serves_not))
    with open(runtime_dir.log_path(serves_not), encoding="utf-8") as log:
        assert "Traceback" not in log.read()


def _request(verb: str) -> bytes:
    from wdkmutex_shm.protocol.messages import encode_request

    return encode_request(verb, {})


@pytest.fixture
def serves_not(grt: str) -> str:
    """An instance whose daemon the test ends; this process has left it."""
    Grt.register_fast_mutex("n", 5)
    Grt.detach()
    return grt


def test_a_client_that_reads_nothing_holds_up_no_end(serves_not: str) -> None:
    pid = daemon_pid(serves_not)
    with Peer(serves_not) as peer:
        peer.sock.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            while True:  # until neither side takes any more
                peer.send(_request("status") * 100)
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: gone(pid), "its end, although replies are unread")
    Grt.init(serves_not)
    assert Grt.names() == ["n"]


def test_destroy_leaves_the_start_lock_to_who_has_it(grt: str) -> None:
    """Somebody is about to start the next daemon: his lock must stay his."""
    pid = daemon_pid(grt)
    lock = LockFile(runtime_dir.start_lock_path(grt))
    assert lock.try_acquire()
    Grt.destroy()
    wait_until(lambda: gone(pid))
    assert os.path.exists(lock.path)
    lock.release(remove=True)


def test_a_folder_that_went_while_it_ended(grt: str) -> None:
    pid = daemon_pid(grt)
    with connect(grt) as client, _stopped(pid):
        os.unlink(runtime_dir.socket_path(grt))
        os.unlink(runtime_dir.log_path(grt))
        os.kill(pid, signal.SIGCONT)
        client.call("destroy")
    wait_until(lambda: gone(pid))
    assert os.listdir(os.path.dirname(runtime_dir.socket_path(grt))) == []
