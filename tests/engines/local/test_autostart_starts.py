"""Who starts the daemon: one process of many, and what happens when it cannot be started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import psutil
import pytest
from support import (
    Fork,
    daemon_pid,
    segments,
    wait_until,
)

from wdkmutex_shm import Grt
from wdkmutex_shm.base import runtime_dir
from wdkmutex_shm.engines.local import autostart
from wdkmutex_shm.engines.local.client import connect
from wdkmutex_shm.errors import (
    DaemonError,
    DaemonUnavailable,
    KeyExists,
)
from wdkmutex_shm.grt import session


def _daemons(instance: str) -> list[int]:
    """Processes that run the daemon of an instance."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if "run" in command and instance in command and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def test_a_hundred_processes_init_at_once(instance: str) -> None:
    """Each of them inits at the same moment, in one instance of which there is nothing yet: one daemon, one winner."""
    gate_out, gate_in = os.pipe()

    def work() -> tuple[int, bool]:
        os.close(gate_in)
        os.read(gate_out, 1)  # until all are here
        Grt.init(instance, timeout=60.0)
        try:
            Grt.register_fast_mutex_checked("winner", os.getpid())
            won = True
        except KeyExists:
            won = False
        Grt.get_or_register_kmutex("counter", 0).fetch_add(1)
        return int(session.current().daemon["epoch"]), won

    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Fork(work)) for _ in range(100)]
        os.close(gate_out)
        os.close(gate_in)
        results = [child.result(90) for child in children]
    assert len({epoch for epoch, _ in results}) == 1
    assert [won for _, won in results].count(True) == 1
    assert len(wait_until(lambda: _daemons(instance))) == 1
    Grt.init(instance)
    assert Grt.get_kmutex("counter", int).peek() == 100
    assert Grt.get_fast_mutex("winner", int).peek() in [child.pid for child in children]


def test_a_daemon_has_no_parent_that_must_wait_for_it(instance: str) -> None:
    before = psutil.Process().children()
    Grt.init(instance)
    pid = daemon_pid(instance)
    assert psutil.Process().children() == before
    assert os.getsid(pid) == os.getsid(pid) != os.getsid(0)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.stat(runtime_dir.socket_path(instance)).st_mode & 0o777 == 0o600


def test_the_start_leaves_no_warning(instance: str) -> None:
    code = f"from wdkmutex_shm import Grt; Grt.init({instance!r}); Grt.register_fast_mutex('n', 1); Grt.destroy()"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_starter_that_dies_is_replaced(instance: str) -> None:
    """Its start lock lies there, its time is over, and the kernel has released it."""
    with open(runtime_dir.start_lock_path(instance), "w"):
        pass
    Grt.init(instance)
    assert Grt.names() == []
    assert not os.path.exists(runtime_dir.start_lock_path(instance))


def test_a_starter_that_hangs_is_named(instance: str) -> None:
    from wdkmutex_shm.base.lockfile import LockFile

    lock = LockFile(runtime_dir.start_lock_path(instance))
    assert lock.try_acquire()
    with pytest.raises(DaemonUnavailable, match=r"another process is starting .*\.log"):
        Grt.init(instance, timeout=1.5)
    assert Grt.instance() is None
    lock.release(remove=True)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/does/not/exist", "cannot be started"),
        ("sh -c 'echo no such luck >&2; exit 3'", "no such luck"),
        ("sh -c 'exit 0'", "ended during startup"),
    ],
)
def test_a_daemon_that_cannot_be_started(
    command: str, words: str, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WDKMUTEX_DAEMON", command)
    with pytest.raises(DaemonUnavailable, match=words):
        Grt.init(instance)
    monkeypatch.delenv("WDKMUTEX_DAEMON")
    Grt.init(instance)


def test_a_daemon_that_does_not_get_ready(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WDKMUTEX_DAEMON", "sleep 60")
    monkeypatch.setattr(autostart, "command", lambda: ["sh", "-c", "exec sleep 60", "sh"])
    before = psutil.Process().children()
    with pytest.raises(DaemonUnavailable, match="in time"):
        Grt.init(instance, timeout=1.0)
    assert psutil.Process().children() == before


@pytest.mark.parametrize("executable", ["", "/usr/bin/uwsgi", "/usr/local/bin/python3"])
def test_command_where_the_executable_is_not_the_environments(executable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # uWSGI is its own executable; that of PyPI's wheel names the Python that the environment was made with.
    monkeypatch.setattr(sys, "executable", executable)
    python, *rest = autostart.command()
    assert rest == ["-m", "wdkmutex_daemon"]
    assert os.path.samefile(os.path.dirname(python), os.path.join(sys.prefix, "bin"))


def test_command_where_there_is_no_python(monkeypatch: pytest.MonkeyPatch, runtime_base: str) -> None:
    assert autostart.command() == [sys.executable, "-m", "wdkmutex_daemon"]
    monkeypatch.setattr(sys, "prefix", runtime_base)
    assert autostart.command() == [sys.executable, "-m", "wdkmutex_daemon"], "better than nothing"
    script = f"{runtime_base}/wdkmutex-daemon"
    with open(script, "w") as file:
        file.write("#!/bin/sh\n")
    os.chmod(script, 0o700)
    monkeypatch.setenv("PATH", runtime_base)
    for executable in ("", "/usr/bin/uwsgi"):
        monkeypatch.setattr(sys, "executable", executable)
        assert autostart.command() == [script]
    os.unlink(script)
    with pytest.raises(DaemonUnavailable, match="WDKMUTEX_DAEMON"):
        autostart.command()
    monkeypatch.setenv("WDKMUTEX_DAEMON", "python3 -m 'my daemon'")
    assert autostart.command() == ["python3", "-m", "my daemon"]


def test_a_second_daemon_is_refused(grt: str) -> None:
    for extra in ((), ("--detach",)):
        done = subprocess.run(
            [sys.executable, "-m", "wdkmutex_daemon", "run", "--instance", grt, *extra],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if not extra:
            assert done.returncode != 0
            assert str(daemon_pid(grt)) in done.stderr
    assert len(wait_until(lambda: [_daemons(grt)] if len(_daemons(grt)) == 1 else None)[0]) == 1
    assert not autostart.start(grt)


def test_one_daemon_for_two_runtime_folders(grt: str, runtime_base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cron job has another XDG_RUNTIME_DIR than the login session: it finds the same daemon, or none can start."""
    Grt.register_fast_mutex("n", 5)
    Grt.detach()
    other = f"{runtime_base}/cron"
    os.mkdir(other, 0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", other)
    Grt.init(grt)
    assert Grt.get_fast_mutex("n", int).peek() == 5
    assert _daemons(grt) == [daemon_pid(grt)]
    Grt.detach()
    # A daemon that does not answer still owns the pool.
    pid = daemon_pid(grt)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(DaemonError):
            Grt.init(grt, timeout=2.0)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: _daemons(grt) == [pid], "the second daemon gives up")
    with connect(grt) as client:
        assert client.daemon["pid"] == pid
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime_base)
    for name in os.listdir(f"{other}/wdkmutex"):
        os.unlink(f"{other}/wdkmutex/{name}")


def test_no_room_at_the_start(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the daemon says of its failure is what init raises."""
    from wdkmutex_shm.errors import PagedPoolAllocFailed

    # A file size limit stands for a full /dev/shm: the same call of the daemon's fails.
    monkeypatch.setenv(
        "WDKMUTEX_DAEMON", f'sh -c \'ulimit -f 8; trap "" XFSZ; exec "$@"\' sh {sys.executable} -m wdkmutex_daemon'
    )
    with pytest.raises(PagedPoolAllocFailed):
        Grt.init(instance)
    monkeypatch.delenv("WDKMUTEX_DAEMON")
    assert segments(instance) == []
    Grt.init(instance)
