"""What the tools need of the kernel and Python does not offer: namespaces, mounts, capabilities, refused system calls.

See unshare(2), mount(2), capabilities(7), prctl(2), seccomp(2).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000

_MS_REC_PRIVATE = 0x4000 | 0x40000
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION = 0x20080522
#: machine: (AUDIT_ARCH_*, capset(2), system calls that make a descriptor: open(2) and its like, socket, pipe, dup)
_MACHINES = {
    "x86_64": (0xC000003E, 126, (2, 85, 257, 437, 41, 53, 22, 293, 32, 72, 288)),
    "aarch64": (0xC00000B7, 91, (56, 437, 198, 199, 59, 23, 242)),
}

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """unshare(2). With CLONE_NEWUSER the caller is root in its new user namespace.

    Raises:
        OSError: it is not permitted.
    """
    uid, gid = os.geteuid(), os.getegid()
    _checked(_libc.unshare(flags), "unshare")
    if flags & CLONE_NEWUSER:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    if flags & CLONE_NEWNS:
        _checked(_libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None), "mount / private")


def enter(flags: int) -> None:
    """unshare(2) as root, else with a user namespace in which the caller is.

    Raises:
        OSError: neither is permitted.
    """
    try:
        unshare(flags)
    except PermissionError:
        unshare(flags | CLONE_NEWUSER)


def mount(kind: str, target: str, data: str = "") -> None:
    """mount(2) of a file system that has no device.

    Raises:
        OSError: it is not permitted.
    """
    _checked(_libc.mount(kind.encode(), target.encode(), kind.encode(), 0, data.encode()), f"mount {target}")


def drop_capability(number: int) -> None:
    """Give up a capability for good, in this process and in whatever it executes. Without it nothing happens.

    Raises:
        OSError: this machine is not known, or it is not permitted.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        raise OSError(f"no system call numbers for {platform.machine()}")
    _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    data = ctypes.create_string_buffer(24)
    _checked(_libc.syscall(machine[1] - 1 if machine[1] == 126 else 90, header, data), "capget")
    words = list(struct.unpack("=6I", data.raw[:24]))  # effective, permitted, inheritable; low, then high
    for index in range(3):
        words[index + 3 * (number // 32)] &= ~(1 << number % 32)
    _checked(_libc.syscall(machine[1], header, struct.pack("=6I", *words)), "capset")


def refuse_system_calls(code: int) -> None:
    """From now on every system call of this process that would make a descriptor fails with the errno ``code``.

    Raises:
        OSError: the kernel has no seccomp(2) filters, or this machine is not known.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        raise OSError(f"no system call numbers for {platform.machine()}")
    audit, _, numbers = machine
    # A filter of classic BPF. Loads: 4 architecture, 0 system call. Returns: allow, or errno.
    load, equal, give = 0x20, 0x15, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | code
    program = [(load, 0, 0, 4), (equal, 1, 0, audit), (give, 0, 0, allow), (load, 0, 0, 0)]
    for index, number in enumerate(numbers):
        program.append((equal, len(numbers) - index, 0, number))
    program += [(give, 0, 0, allow), (give, 0, 0, refuse)]
    raw = b"".join(struct.pack("=HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(raw, len(raw))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(buffer)))
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    _checked(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0), "seccomp")


def stay_visible() -> None:
    """prctl(2), PR_SET_DUMPABLE: a process that has changed its user may go on to look into its own /proc/self/fd."""
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
