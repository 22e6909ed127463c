"""Processes that see the machine differently: a /proc that hides others, other users, other time and pid namespaces."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys

import pytest
from processes import Line

__all__ = ["OTHER", "USER", "become", "fork_with_another_clock", "fork_with_anothers_proc", "hide_others", "needs_root"]

USER, OTHER = 54321, 54322
"""Users that nobody is."""

_NEWNS, _NEWTIME, _NEWPID = 0x00020000, 0x00000080, 0x20000000
_REC_PRIVATE = 0x4000 | 0x40000

_libc = ctypes.CDLL(None, use_errno=True)


def _can_unshare() -> bool:
    command = ["unshare", "--mount", "--time", "--fork", "mount", "-t", "proc", "-o", "hidepid=2", "proc", "/proc"]
    with contextlib.suppress(OSError):
        return os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0
    return False


needs_root = pytest.mark.skipif(
    not _can_unshare(), reason="other users, mounts and namespaces take root, and a kernel that has them (Linux 5.6)"
)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def become(user: int) -> None:
    """Change the user of the calling process, for good, as a server does that is started by root."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def hide_others(user: int) -> None:
    """Give the calling process a /proc in which it sees only itself, and the user."""
    _check(_libc.unshare(_NEWNS))
    _check(_libc.mount(b"none", b"/", None, _REC_PRIVATE, None))
    _check(_libc.mount(b"proc", b"/proc", b"proc", 0, b"hidepid=2"))
    become(user)
    assert not os.path.exists(f"/proc/{os.getppid()}")


def fork_with_another_clock(line: Line, seconds: int) -> None:
    """Return in a forked child whose time namespace is that much ahead; the caller's process ends with it."""
    _check(_libc.unshare(_NEWTIME))
    with open("/proc/self/timens_offsets", "w") as file:
        file.write(f"monotonic {seconds} 0\nboottime {seconds} 0\n")
    _fork(line)


def fork_with_anothers_proc(line: Line) -> None:
    """Return in a forked child in a pid namespace of its own, with the /proc of the one before."""
    _check(_libc.unshare(_NEWPID))
    _fork(line)


def _fork(line: Line) -> None:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        line.close()
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
