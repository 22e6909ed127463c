"""Programs frozen by PyInstaller, cx_Freeze, Nuitka and their like: one executable that is no Python.

Its daemon is that executable again, but only where something stands before the program's own code and runs the daemon
instead: :func:`freeze_support`, or the runtime hook that PyInstaller takes along. Without it the program itself would
run a second time.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

__all__ = ["DAEMON", "command", "environment", "freeze_support", "is_frozen", "left_alone"]


DAEMON = "wdkmutex_daemon"
"""The package that is the daemon. It stands on this one, which knows it by its name alone, as ``python -m`` does."""


def freeze_support() -> None:
    """Let a frozen program act as its own daemon. Call it before anything else, like
    ``multiprocessing.freeze_support()``.

    If the process was started as the daemon, this runs the daemon and does not return. Otherwise, and if the program
    is not frozen, it only records that it was called. Programs built by PyInstaller do not need this call.
    """
    _daemon().divert()


def _daemon() -> Any:
    return import_module(f"{DAEMON}.frozen")


def is_frozen() -> bool:
    """Whether this process runs a frozen program, in which ``sys.executable`` is no Python."""
    if getattr(sys, "frozen", False):
        return True
    return bool(getattr(globals().get("__compiled__"), "standalone", False))  # Nuitka's own mark


def command() -> list[str] | None:
    """The command line of a frozen program that runs the daemon's; None if nothing in it would do that."""
    daemon = _daemon()
    return [_executable(), daemon.MARK] if daemon.diverts else None


def environment() -> dict[str, str]:
    """The environment for a process that is no part of this program, as its user set it.

    PyInstaller's loader puts the program's folder of libraries first, and takes the same executable for a helper that
    ends, and loses its unpacked files, with this process.
    """
    env = dict(os.environ)
    if hasattr(sys, "_MEIPASS"):
        before = env.pop("LD_LIBRARY_PATH_ORIG", None)
        env.pop("LD_LIBRARY_PATH", None)
        if before is not None:
            env["LD_LIBRARY_PATH"] = before
        env["PYINSTALLER_RESET_ENVIRONMENT"] = "1"
    return env


def left_alone(words: list[str]) -> list[str]:
    """A command that runs ``words`` as nobody's child, and ends at once."""
    return ["/bin/sh", "-c", '"$@" &', "sh", *words]


def _executable() -> str:
    try:
        return os.readlink("/proc/self/exe")
    except OSError:
        return sys.executable
