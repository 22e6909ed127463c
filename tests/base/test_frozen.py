"""Frozen programs, and others whose ``sys.executable`` is no Python: never run a second time as their own daemon."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from support import DEADLINE

import wdkmutex_shm
from wdkmutex_shm import Grt
from wdkmutex_shm.base import frozen
from wdkmutex_shm.engines.local import autostart
from wdkmutex_shm.errors import DaemonUnavailable

SCRIPTS = os.path.dirname(sys.executable)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that writes down that it was started."""
    path = tmp_path / "bin" / "python3"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/started\n', encoding="ascii")
    path.chmod(0o755)
    return path


@pytest.fixture
def is_frozen(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process looks as if the program were frozen, and called nothing."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(sys, "prefix", str(program.parent.parent))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


def _open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.usefixtures("is_frozen")
def test_a_frozen_program_is_not_run_a_second_time(instance: str, tmp_path: Path) -> None:
    before = _open_files()
    with pytest.raises(DaemonUnavailable, match=r"freeze_support.*WDKMUTEX_DAEMON"):
        Grt.init(instance)
    assert _open_files() == before
    assert not (tmp_path / "started").exists()


@pytest.mark.usefixtures("is_frozen")
@pytest.mark.parametrize("how", ["PATH", "WDKMUTEX_DAEMON"])
def test_a_daemon_beside_the_frozen_program(
    how: str, instance: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "PATH":
        monkeypatch.setenv("PATH", f"{SCRIPTS}:/usr/bin:/bin")
    else:
        monkeypatch.setenv(how, f"{SCRIPTS}/python -m wdkmutex_daemon")
    Grt.init(instance)
    assert Grt.names() == []
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("name", ["pythonapp", "my-python", "python-app", "monty.python", ""])
def test_an_embedding_program_is_not_taken_for_a_python(
    name: str, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "nothing"))
    monkeypatch.setattr(sys, "executable", name and str(program.rename(program.with_name(name))))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(DaemonUnavailable, match="does not run in a python executable"):
        autostart.command()


@pytest.mark.parametrize("name", ["python", "python3.11", "python3.13t", "python3-dbg", "python3.12d", "pypy3.10"])
def test_the_names_of_pythons(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "nothing"))
    monkeypatch.setattr(sys, "executable", f"/opt/x/{name}")
    assert autostart.command() == [f"/opt/x/{name}", "-m", "wdkmutex_daemon"]


def test_freeze_support_runs_the_daemon_in_the_place_of_the_program() -> None:
    code = "import wdkmutex_shm; wdkmutex_shm.freeze_support(); print('the program')"

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True, timeout=DEADLINE, check=True
        )
        return done.stdout

    assert run() == run("x", "--wdkmutex-daemon", "--version") == "the program\n"
    assert run("--wdkmutex-daemon", "--version") == f"wdkmutex-daemon, version {wdkmutex_shm.__version__}\n"


def test_the_command_of_a_program_that_diverts(monkeypatch: pytest.MonkeyPatch) -> None:
    from wdkmutex_daemon import frozen as diverting

    monkeypatch.setattr(diverting, "diverts", False)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert frozen.command() is None
    frozen.freeze_support()
    assert autostart.command() == [os.path.realpath(sys.executable), "--wdkmutex-daemon"]


@pytest.mark.parametrize(("own", "given"), [("/mine", "/mine"), (None, None)])
def test_what_pyinstaller_puts_into_the_environment(
    own: str | None, given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/tmp/_MEI1")
    assert frozen.environment()["LD_LIBRARY_PATH"] == "/tmp/_MEI1"
    monkeypatch.setattr(sys, "_MEIPASS", "/tmp/_MEI1", raising=False)
    if own is not None:
        monkeypatch.setenv("LD_LIBRARY_PATH_ORIG", own)
    environment = frozen.environment()
    assert environment.get("LD_LIBRARY_PATH") == given
    assert environment["PYINSTALLER_RESET_ENVIRONMENT"] == "1"
    assert "LD_LIBRARY_PATH_ORIG" not in environment


# --- a real one

APP = """
import os, sys, time

with open(os.environ["STARTED"], "a") as file:
    file.write("the program\\n")

from wdkmutex_shm import FastMutex, Grt

mutex = FastMutex([])
with mutex.lock() as guard:
    guard.value.append(len("three"))
Grt.init()
Grt.register_fast_mutex("n", mutex.peek()[0])
print(Grt.get_fast_mutex("n", int).fetch_add(1), getattr(sys, "frozen", False))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built by PyInstaller without any option of ours, under a name that a Python might have."""
    pytest.importorskip("PyInstaller")
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        pytest.skip("PyInstaller needs a Python with a shared library")
    if not any(entry.module.startswith("wdkmutex_daemon.") for entry in entry_points(group="pyinstaller40")):
        pytest.skip("installed before there was a hook")
    if not str(wdkmutex_shm.__file__).startswith(sys.prefix):
        pytest.skip("PyInstaller does not follow an editable installation")
    folder = tmp_path_factory.mktemp("frozen")
    (folder / "app.py").write_text(APP, encoding="ascii")
    words = [sys.executable, "-m", "PyInstaller", "--name", "python3", "--log-level", "WARN", "app.py"]
    environment = {**os.environ, "PYINSTALLER_CONFIG_DIR": str(folder / "cache")}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "dist" / "python3" / "python3"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_program_that_pyinstaller_built(built: Path, instance: str, tmp_path: Path) -> None:
    started = tmp_path / "started"
    environment = {**os.environ, "WDKMUTEX_INSTANCE": instance, "STARTED": str(started), "PATH": "/nonexistent"}

    def run(*words: str) -> str:
        done = subprocess.run(
            [built, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run() == "5 True\n"
    assert started.read_text() == "the program\n", "it ran once, and the daemon is not it"
    Grt.init(instance, autostart=False)
    assert Grt.get_fast_mutex("n", int).fetch_add(1) == 6, "its daemon serves us as well"
    assert run("--wdkmutex-daemon", "get", "n") == "7\n"
    paths = run("--wdkmutex-daemon", "systemd", "install", "--folder", str(tmp_path / "units")).split()
    assert f"ExecStart={built} --wdkmutex-daemon run" in Path(paths[0]).read_text(encoding="utf-8")
    assert started.read_text() == "the program\n"
