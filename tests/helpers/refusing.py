"""Programs whose kernel refuses system calls: a seccomp(2) filter stands in for it.

As a command: ``refusing.py ERRNO NAMES PROGRAM [ARGUMENT...]`` runs a Python program with a filter in place.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import subprocess
import sys
from typing import Any

#: Of each machine: its number in filters, and those of the system calls.
_MACHINES: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            "clone": 56,
            "flock": 73,
            "mlock": 149,
            "set_robust_list": 273,
            "get_robust_list": 274,
            "fallocate": 285,
            "memfd_create": 319,
            "clone3": 435,
            "pidfd_open": 434,
            "futex_waitv": 449,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "flock": 32,
            "clone": 220,
            "mlock": 228,
            "set_robust_list": 99,
            "get_robust_list": 100,
            "fallocate": 47,
            "memfd_create": 279,
            "clone3": 435,
            "pidfd_open": 434,
            "futex_waitv": 449,
        },
    ),
}
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
CANNOT = 77  # the exit code where there are no filters


def refuse(code: int, *names: str) -> None:
    """From now on these system calls of this process and its children fail with the errno ``code``. Raises OSError."""
    machine, numbers = _MACHINES[platform.machine()]
    # Classic BPF. Loads: 4 architecture, 0 system call. Returns: allow, or errno.
    load, equal, give = 0x20, 0x15, 0x06
    program = [(load, 0, 0, 4), (equal, 1, 0, machine), (give, 0, 0, 0x7FFF0000), (load, 0, 0, 0)]
    program += [(equal, len(names) - index, 0, numbers[name]) for index, name in enumerate(names)]
    program += [(give, 0, 0, 0x7FFF0000), (give, 0, 0, 0x00050000 | code)]
    raw = b"".join(struct.pack("=HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(raw, len(raw))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0):
        raise OSError(ctypes.get_errno(), "no seccomp filter")


def run(code: str, names: tuple[str, ...], program: str, *arguments: str, **environment: str) -> list[str]:
    """Run a Python program where these system calls fail, and return the lines that it has printed."""
    import pytest

    command = [sys.executable, __file__, code, ",".join(names), program, *arguments]
    done: Any = subprocess.run(
        command, cwd="/", capture_output=True, text=True, timeout=100, check=False, env={**os.environ, **environment}
    )
    if done.returncode == CANNOT:
        pytest.skip(f"no seccomp filter here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return list(done.stdout.splitlines())


if __name__ == "__main__":
    try:
        refuse(getattr(errno, sys.argv[1]), *filter(None, sys.argv[2].split(",")))
    except (OSError, KeyError) as error:
        print(error, file=sys.stderr)
        sys.exit(CANNOT)
    os.execv(sys.executable, [sys.executable, "-c", *sys.argv[3:]])
