"""What doctor finds, and that the remedy which it names is one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from commands import Command
from support import DEADLINE, gone, kill_daemon, segments, wait_until
from wdkmutex_daemon.inspect import doctor
from wdkmutex_daemon.inspect.doctor import FAIL, OK, WARN, Finding

from wdkmutex_shm import Grt
from wdkmutex_shm.base.names import instance_prefix
from wdkmutex_shm.core import _core
from wdkmutex_shm.memory import data_segments, shm

pytestmark = pytest.mark.slow  # most of them start several processes


def _found(check: str, level: str, part: str = "") -> list[Finding]:
    return [one for one in doctor.examine() if one.check == check and one.level == level and part in one.text]


def test_all_is_well(served: Command) -> None:
    report = served.json("doctor")
    assert report["ok"] is True
    assert [one for one in report["findings"] if served.instance in one["text"] and one["level"] != OK] == []
    assert {one["check"] for one in report["findings"]} == {
        "/dev/shm",
        "limits",
        "runtime folder",
        "daemons",
        "segments",
        "pid namespace",
        "library",
    }
    assert "ok    library: " in served("doctor")


def test_a_failure_is_status_1_and_names_its_remedy(cli: Command, runtime_base: str) -> None:
    folder = os.path.join(runtime_base, "wdkmutex")
    os.mkdir(folder)
    os.chmod(folder, 0o755)
    said = cli("doctor", code=1)
    assert f"chmod 700 {folder}" in said
    report = json.loads(cli("doctor", "--json", code=1))
    assert report["ok"] is False
    assert [one["level"] for one in report["findings"] if one["check"] == "runtime folder"] == [FAIL]
    os.chmod(folder, 0o700)
    cli("doctor")


def test_stale_socket(served: Command) -> None:
    kill_daemon(served.instance)
    (found,) = _found("daemons", WARN, "stale")
    assert f"wdkmutex-daemon start --instance {served.instance}" in found.remedy
    (left,) = _found("segments", WARN, f"instance {served.instance} has")
    assert "destroy" in left.remedy
    served("start")
    assert _found("daemons", WARN) == []
    assert _found("segments", WARN, served.instance) == []


def test_a_daemon_that_does_not_answer(served: Command) -> None:
    pid = served.json("status")["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert "does not answer" in _found("daemons", FAIL)[0].text
    finally:
        os.kill(pid, signal.SIGCONT)


def test_another_version(served: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "__version__", "99")
    (found,) = _found("daemons", WARN)
    assert "version" in found.text
    assert "restart" in found.remedy


def test_memory_of_a_dead_process(cli: Command) -> None:
    script = "import os, signal, wdkmutex_shm; m = wdkmutex_shm.KMutex(1); os.kill(os.getpid(), signal.SIGKILL)"

    def leave() -> int:
        child = subprocess.Popen([sys.executable, "-c", script])
        assert child.wait(DEADLINE) == -signal.SIGKILL
        return child.pid

    def found() -> list[Finding]:
        return _found("segments", WARN, f"process {leave()} died and left")

    # Any process that makes its first mutex sweeps, on this whole machine: it may be quicker than we are.
    assert [one.remedy for one in wait_until(found)] == ["wdkmutex-daemon sweep"]

    def swept() -> bool:
        pid = leave()
        return any(f"@{pid}." in name for name in cli.json("sweep")["pools"])

    wait_until(swept)


def test_memory_of_a_dead_process_that_another_uses(cli: Command) -> None:
    # The maker hands its mutex to a forked child and dies; while that lives, nothing is left over.
    script = (
        "import os, sys, wdkmutex_shm; m = wdkmutex_shm.KMutex(1)\n"
        "if os.fork(): os._exit(0)\n"
        "print(os.getppid(), flush=True); sys.stdin.read(); m.lock().drop_safe()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.wait(DEADLINE) == 0
        assert child.stdout is not None
        assert child.stdout.readline()
        assert _found("segments", WARN, f"process {child.pid} died and left") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be another user, whose board nobody else uses")
def test_boards_that_nobody_uses_or_may_use() -> None:
    uses = (
        "import os, sys\n"
        "from wdkmutex_daemon.inspect import doctor\n"
        "from wdkmutex_shm import KMutex\n"
        "from wdkmutex_shm.core import _core\n"
        "from wdkmutex_shm.pool import sweep\n"
        "doctor.examine()\n"  # which imports what another user may not be allowed to read
        "os.seteuid(54321)\n"
        "m = KMutex(0)\n"
        "_core.end_wait(_core.begin_wait(m, _core.WAIT_TASK, 0))\n"
        "texts = lambda: [(f.level, f.remedy) for f in doctor.examine() if '@waits' in f.text]\n"
        "assert os.path.exists(_core.wait_board_path())\n"
        "assert texts() == []\n"
        "_core.close_wait_board()\n"
        "assert texts() == [('warn', 'wdkmutex-daemon sweep')], texts()\n"
        "assert sweep.unused_boards() == [_core.wait_board_path()[8:]]\n"
        "os.seteuid(0)\n"
        "open(sys.argv[1], 'w').close()\n"
        "os.seteuid(54321)\n"
        "try:\n"
        "    ((level, remedy),) = texts()\n"
        "    assert level == 'warn' and 'ask uid 0' in remedy, remedy\n"
        "    assert _core.begin_wait(m, _core.WAIT_TASK, 0) == 0\n"
        "finally:\n"
        "    os.seteuid(0)\n"
        "    os.unlink(sys.argv[1])\n"
        "    os.seteuid(54321)\n"
        "del m\n"
    )
    path = _core.wait_board_path().replace("wdkm.0.", "wdkm.54321.")
    subprocess.run([sys.executable, "-c", uses, path], check=True, timeout=DEADLINE)
    assert not os.path.exists(path)


def test_data_that_is_no_mutexs(served: Command) -> None:
    prefix = instance_prefix(served.instance)
    script = f"from wdkmutex_shm.memory import data_segments; data_segments.create({prefix!r}, bytes(1000))"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=DEADLINE)
    # The daemon removes it by itself within seconds, so either may be first.
    for found in _found("segments", WARN, served.instance):
        assert "sweep" in found.remedy
    served("sweep")
    assert _found("segments", WARN, served.instance) == []
    ident = data_segments.create(prefix, b"x")
    assert _found("segments", WARN, served.instance) == [], "its maker lives"
    data_segments.unlink(prefix, ident)


def test_a_segment_of_another_layout(served: Command) -> None:
    served("stop")
    path = shm.FOLDER + segments(served.instance)[0]
    with open(path, "r+b") as file:
        file.seek(8)
        layout = file.read(4)
        file.seek(8)
        file.write(b"\x63\0\0\0")
    (found,) = _found("segments", FAIL, "layout is 99")
    assert f"rm {shm.FOLDER}{instance_prefix(served.instance)}.*" in found.remedy
    assert "layout" in served.error("start", code=8)
    with open(path, "r+b") as file:
        file.seek(8)
        file.write(layout)
    assert _found("segments", FAIL) == []


def test_what_a_killed_demo_leaves(runtime_base: str) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    assert gone(dead.pid)
    cli = Command(f"demo-{dead.pid}-0a")
    cli("start")
    kill_daemon(cli.instance)
    (found,) = _found("segments", WARN, cli.instance)
    assert found.remedy == f"wdkmutex-daemon destroy --yes --instance {cli.instance}"
    cli("destroy", "--yes")


@pytest.mark.parametrize(
    ("size", "free", "level"),
    [(1 << 30, 1 << 29, OK), (64 << 20, 60 << 20, WARN), (1 << 30, 1 << 20, WARN), (1 << 30, 9, FAIL)],
)
def test_little_room(size: int, free: int, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    status = SimpleNamespace(f_blocks=size, f_bavail=free, f_frsize=1, f_files=10, f_ffree=5)
    monkeypatch.setattr(os, "statvfs", lambda path: status)
    (found,) = list(doctor._shm())
    assert found[0] == level
    assert ("size=" in found[2]) == (level != OK)


def test_a_runtime_folder_that_is_not_used(monkeypatch: pytest.MonkeyPatch, runtime_base: str) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.path.join(runtime_base, "missing"))
    assert any(level == WARN and "missing" in text for level, text, _ in doctor._runtime_folder())


def test_a_runtime_folder_that_is_too_long(monkeypatch: pytest.MonkeyPatch, runtime_base: str) -> None:
    for length, level in ((60, WARN), (110, FAIL)):
        long = os.path.join(runtime_base, "x" * length)
        os.mkdir(long, 0o700)
        monkeypatch.setenv("XDG_RUNTIME_DIR", long)
        assert [found[0] for found in doctor._runtime_folder()] == [level]


def test_what_a_check_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> object:
        raise OSError("broken")

    with monkeypatch.context() as patch:  # what looks for leftovers after a test needs it, too
        patch.setattr(doctor.identity, "pid_namespace", broken)
        assert "broken" in _found("pid namespace", FAIL)[0].text


def test_nothing_is_changed_by_looking(grt: str) -> None:
    Grt.register_kmutex("a", 1)
    before = set(segments(grt))
    doctor.examine()
    assert set(segments(grt)) == before
    wait_until(lambda: Grt.names() == ["a"])
