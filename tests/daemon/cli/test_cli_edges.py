"""Verbs where a daemon, a mutex or a terminal is not as usual."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Command
from peer import Peer
from pretender import Pretender
from support import DEADLINE, Fork, daemon_pid, gone, wait_until
from wdkmutex_daemon.cli import exit_codes
from wdkmutex_daemon.cli.output import duration
from wdkmutex_daemon.demo import counting
from wdkmutex_daemon.demo.counting import Counts
from wdkmutex_daemon.demo.report import SHOWN, Result, as_tables

from wdkmutex_shm import Grt
from wdkmutex_shm.errors import DaemonError
from wdkmutex_shm.protocol.messages import encode_error, encode_request

pytestmark = pytest.mark.slow  # most of them start a process


# --- the daemon


def test_a_daemon_that_refuses_to_stop(instance: str) -> None:
    with Pretender(instance, lambda verb, params: encode_error(DaemonError("not now"))):
        assert "not now" in Command(instance).error("stop", code=exit_codes.FAILED)


def test_a_daemon_that_takes_longer_to_end_than_is_waited(grt: str) -> None:
    """A client that does not read its replies keeps it for a second; the time is up before."""
    pid = daemon_pid(grt)
    with Peer(grt) as peer:
        peer.sock.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            while True:
                peer.send(encode_request("status", {}) * 100)
        said = Command(grt).error("stop", "--timeout", "0", code=exit_codes.FAILED)
    assert f"kill -9 {pid}" in said
    wait_until(lambda: gone(pid))
    Grt.names()


def test_the_status_of_a_daemon_that_does_not_answer(grt: str) -> None:
    cli, pid = Command(grt), daemon_pid(grt)
    os.kill(pid, signal.SIGSTOP)
    try:
        with Fork(lambda: cli("status", code=exit_codes.NO_GRT)) as child:
            assert f"kill -9 {pid}" in child.result()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert f"pid {pid}" in cli("status")


def test_what_a_sweep_says(grt: str) -> None:
    cli = Command(grt)
    mutex = Grt.register_kmutex("n", 1)
    with mutex.lock():
        Grt.unregister("n")
        done = subprocess.run(
            cli.words("sweep"), env=cli.environment(), capture_output=True, text=True, timeout=DEADLINE, check=True
        )
        assert "1 destroyed mutexes wait for their last holder" in done.stderr
    other = Command(grt + "x")
    done = subprocess.run(
        other.words("sweep"), env=other.environment(), capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    assert f"No daemon serves instance {grt}x" in done.stderr


# --- lock


def test_a_signal_that_was_ignored_stays_ignored(grt: str) -> None:
    """As nohup has it: neither the waiting nor the command ends by it."""
    Grt.register_kmutex("n", 1)
    cli = Command(grt)
    words = [
        "sh",
        "-c",
        'trap "" HUP; exec "$@"',
        "sh",
        *cli.words("lock", "n", "--", "sh", "-c", "kill -HUP $$; exit 7"),
    ]
    done = subprocess.run(words, env=cli.environment(), capture_output=True, timeout=DEADLINE, check=False)
    assert done.returncode == 7, done.stderr


def test_a_mutex_that_is_overwritten_while_its_command_runs(grt: str, tmp_path: Path) -> None:
    """The command's status is what was asked for; but it may not have been alone."""
    Grt.register_kmutex("n", 1)
    cli, fifo = Command(grt), tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(
        cli.words("lock", "n", "--", "sh", "-c", f"cat {fifo}; exit 3"),
        env=cli.environment(), stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        with open(fifo, "w"):  # waits until the command reads it
            Grt.register_kmutex("n", 2)
        _, said = running.communicate(timeout=DEADLINE)
    assert running.returncode == 3
    assert "destroyed or overwritten while the command ran" in said


def test_a_signal_at_the_keyboard_is_for_the_command_alone(grt: str) -> None:
    """Ctrl-C on a terminal reaches both of them; it is not passed on a second time."""
    Grt.register_kmutex("n", 1)
    cli = Command(grt)
    script = "import signal, sys, time; n = []; signal.signal(2, lambda *_: n.append(1)); print('on', flush=True); \
sys.stdin.readline(); time.sleep(0.3); sys.exit(40 + len(n))"
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(sys.executable, cli.words("lock", "n", "--", sys.executable, "-c", script), cli.environment())
    said = b""
    while b"on" not in said:
        said += os.read(fd, 1000)
    os.write(fd, b"\x03")
    os.write(fd, b"\n")
    _, status = os.waitpid(pid, 0)
    os.close(fd)
    assert os.waitstatus_to_exitcode(status) == 41


# --- what is printed


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.04, "0.0 s"), (119, "119.0 s"), (121, "2 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_progress_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two three\n" * 100)
    ours, theirs = pty.openpty()
    cli = Command()
    with subprocess.Popen(
        cli.words("demo", str(tmp_path), "--workers", "1", "--kill-every", "0"),
        env=cli.environment(TERM="xterm"), stdout=subprocess.PIPE, stderr=theirs, text=True,
    ) as running:  # fmt: skip
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while data := os.read(ours, 10_000):
                seen += data
        assert running.stdout is not None
        said = running.stdout.read()
        assert running.wait(DEADLINE) == 0
    os.close(ours)
    assert b"counting" in seen
    assert "300" in said


def test_a_table_of_many_suffixes() -> None:
    counts = Counts(files=1, lines=2, words=3)
    for number in range(SHOWN + 5):
        counts.by_suffix[f".s{number:02}"] = 100 - number
    result = Result(
        path="x",
        size=9,
        counts=counts,
        expected=counts,
        workers=1,
        seed=1,
        kills=0,
        abandoned=0,
        seconds=1.0,
        plain_seconds=1.0,
    )
    said = as_tables(result)
    assert "words in 5 others" in said
    assert f".s{SHOWN - 1:02}" in said
    assert f".s{SHOWN:02}" not in said


def test_a_file_that_is_read_in_pieces_and_is_shorter_than_it_was() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for piece in (b"ab", b"cd", b"e"):
            ours.send(piece)
        assert counting._read(theirs.fileno(), 4) == b"abcd"
        ours.shutdown(socket.SHUT_WR)
        assert counting._read(theirs.fileno(), 4) == b"e"
