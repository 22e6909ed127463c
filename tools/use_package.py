"""Uses the package that this Python has installed, as its users do: locks, the Grt, the command line, the units.

Run with ``python -I`` from an empty folder; anything that does not work is a traceback and status 1.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
from importlib.metadata import version

import wdkmutex_daemon

import wdkmutex_shm
from wdkmutex_shm import CriticalSection, FastMutex, Grt, KMutex, mp

INSTANCE = f"try{os.getpid()}"


def everything_is_there() -> None:
    assert wdkmutex_shm.__version__ == version("wdkmutex-shm")
    for package in (wdkmutex_shm, wdkmutex_daemon):
        assert package.__file__ is not None
        assert package.__file__.startswith(sys.prefix), package.__file__
        folder = os.path.dirname(package.__file__)
        assert os.path.exists(os.path.join(folder, "py.typed"))
        for module in pkgutil.walk_packages([folder], f"{package.__name__}."):
            if "__main__" not in module.name and ".pyinstaller." not in module.name:  # the hooks need PyInstaller
                importlib.import_module(module.name)


def locks() -> None:
    section = CriticalSection()
    for mutex in (KMutex(1), FastMutex(1)):
        with section, mutex.lock() as guard:
            guard.value += 1
        assert mutex.peek() == 2
        pid = os.fork()
        if not pid:
            guard = mutex.lock()
            guard.value = 99
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        with mutex.lock(timeout=10) as guard:
            assert guard.abandoned
            assert guard.value == 2
    with mp.get_context("fork").Pool(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]


def the_grt() -> None:
    Grt.init(INSTANCE)
    try:
        Grt.register_fast_mutex("n", 0)
        code = f"from wdkmutex_shm import Grt; Grt.init({INSTANCE!r}); Grt.get_fast_mutex('n', int).fetch_add(5)"
        subprocess.run([sys.executable, "-I", "-c", code], check=True)
        assert Grt.get_fast_mutex("n", int).peek() == 5
    finally:
        Grt.destroy()


def the_command_line() -> None:
    script = os.path.join(os.path.dirname(sys.executable), "wdkmutex-daemon")

    def run(*words: str) -> str:
        return subprocess.run([script, *words], stdout=subprocess.PIPE, text=True, check=True).stdout

    os.environ["WDKMUTEX_INSTANCE"] = INSTANCE
    run("start")
    try:
        run("register", "n", "7")
        assert run("lock", "n", "--", script, "get", "n").strip() == "7"
        assert '"n"' in run("list", "--json")
    finally:
        run("destroy", "--yes")
    with tempfile.TemporaryDirectory() as folder:
        paths = run("systemd", "install", "--folder", folder).split()
        assert sorted(paths) == sorted(os.path.join(folder, name) for name in os.listdir(folder))
        with open(paths[0], encoding="utf-8") as file:
            assert f"ExecStart={os.path.dirname(sys.executable)}/python" in file.read()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="wdkm") as base:
        os.environ["XDG_RUNTIME_DIR"] = base
        everything_is_there()
        locks()
        the_grt()
        the_command_line()
