"""What is wrong with this machine, or with what was left on it, and what to do about each.

No daemon is needed, and nothing is repaired here but locks that the dead hold. Each check is a function that yields
findings; whatever it raises becomes a finding as well, so that one broken thing does not hide the others. The last one
makes a mutex for a trial; as always when a process makes its first, memory that dead processes left is swept then,
after it was reported.
"""

from __future__ import annotations

import os
import platform
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass

from wdkmutex_shm import __version__
from wdkmutex_shm.base import identity, runtime_dir
from wdkmutex_shm.engines.local.client import connect
from wdkmutex_shm.errors import (
    DaemonUnavailable,
    GrtIsNull,
    KernelUnsupported,
    ProtocolError,
    RuntimeFolderRefused,
    WdkMutexError,
)
from wdkmutex_shm.memory import shm

from .leftovers import FAIL, OK, WARN, Found, mib, segments

__all__ = ["FAIL", "OK", "WARN", "Finding", "examine"]

#: Below this /dev/shm is likely to be the 64 MiB of a container, which a few large T fill.
SMALL_SHM = 64 << 20
#: Below this not even a first pool segment is sure to fit.
NO_ROOM = 1 << 20
FEW_FILES = 256
LITTLE_MEMLOCK = 1 << 20

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: which check found it.
        level: ``ok``, ``warn`` (works, but may not for long, or something was left behind) or ``fail``.
        text: what was found.
        remedy: what to do about it; empty if there is nothing to do.
    """

    check: str
    level: str
    text: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Run all checks for the calling user and return what they found."""
    checks: list[tuple[str, Callable[[], Found]]] = [
        ("/dev/shm", _shm),
        ("limits", _limits),
        ("runtime folder", _runtime_folder),
        ("daemons", _daemons),
        ("segments", segments),
        ("pid namespace", _namespace),
        ("library", _library),
    ]
    findings = []
    for name, check in checks:
        try:
            findings += [Finding(name, *found) for found in check()]
        except KernelUnsupported as error:
            text, _, remedy = str(error).rpartition(". ")
            findings.append(Finding(name, FAIL, text, remedy))
        except Exception as error:
            findings.append(
                Finding(name, FAIL, f"could not be checked: {type(error).__name__}: {error}", "report this")
            )
    return findings


def _shm() -> Found:
    grow = "mount -o remount,size=1G /dev/shm (docker: run --shm-size=1g; Kubernetes: an emptyDir of medium Memory)"
    if not os.access(shm.FOLDER, os.R_OK | os.W_OK | os.X_OK):
        yield FAIL, f"{shm.FOLDER} is missing or not writable", f"mount -t tmpfs -o mode=1777 tmpfs {shm.FOLDER}"
        return
    status = os.statvfs(shm.FOLDER)
    size, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
    text = f"{mib(free)} free of {mib(size)}"
    if free < NO_ROOM or (status.f_files and not status.f_ffree):
        yield FAIL, text + (", no inode free" if free >= NO_ROOM else ""), f"remove unneeded files from it, or {grow}"
    elif size <= SMALL_SHM or free < SMALL_SHM // 4:
        yield WARN, text + ": almost full", grow
    else:
        yield OK, text, ""


def _limits() -> Found:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < FEW_FILES:
        yield WARN, f"{soft} open files allowed (hard limit {hard})", "ulimit -n 1024, or LimitNOFILE= in the service"
    else:
        yield OK, f"{'unlimited' if soft == unlimited else soft} open files allowed", ""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    text = f"{'unlimited' if soft == unlimited else mib(soft)} of memory may be locked"
    if os.environ.get("WDKMUTEX_MLOCK") == "1" and soft != unlimited and soft < LITTLE_MEMLOCK and os.geteuid() != 0:
        yield (
            FAIL,
            f"{text}, but WDKMUTEX_MLOCK=1 requires locked segments",
            "ulimit -l unlimited, or LimitMEMLOCK= in the service",
        )
    else:
        yield OK, text, ""


def _runtime_folder() -> Found:
    base = os.environ.get("XDG_RUNTIME_DIR")
    try:
        folder = runtime_dir.runtime_folder(create=False)
    except RuntimeFolderRefused as error:
        text, _, remedy = str(error).partition("; ")
        yield FAIL, text, remedy
        return
    if base and not folder.startswith(base):
        yield (
            WARN,
            f"XDG_RUNTIME_DIR={base} is not a directory of this user; {folder} is used",
            "create it with this user as its owner, or unset the variable; processes of one instance find each other "
            "anyway",
        )
    room = runtime_dir.SOCKET_PATH_MAX - len(os.fsencode(folder)) - len("/.sock")
    if room < 1:
        yield FAIL, f"{folder} is too long for the path of a socket", "set XDG_RUNTIME_DIR to a shorter path"
    elif room < 32:
        yield (
            WARN,
            f"{folder} leaves {room} characters for the name of an instance",
            "set XDG_RUNTIME_DIR to a shorter path",
        )
    elif os.path.isdir(folder):
        yield OK, f"{folder}, mode {os.stat(folder).st_mode & 0o7777:04o}", ""
    else:
        yield OK, f"{folder} will be created by the first daemon", ""


def _sockets() -> list[str]:
    """The instances that have a socket in the runtime folder."""
    try:
        folder = runtime_dir.runtime_folder(create=False)
        return sorted(entry[:-5] for entry in os.listdir(folder) if entry.endswith(".sock"))
    except (RuntimeFolderRefused, FileNotFoundError):
        return []


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(2.0)
        try:
            sock.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            pass  # it listens, if not to us
        return True


def _daemons() -> Found:
    some = False
    for instance in _sockets():
        some = True
        path = runtime_dir.socket_path(instance, create=False)
        if not _answers(path):
            yield (
                WARN,
                f"{path} is stale: its daemon died",
                f"wdkmutex-daemon start --instance {instance} (replaces it), or rm {path}",
            )
            continue
        restart = f"wdkmutex-daemon restart --instance {instance}"
        try:
            with connect(instance, timeout=2.0) as client:
                facts = client.daemon
        except ProtocolError as error:
            yield FAIL, f"the daemon of instance {instance} has another version: {error}", restart
        except (GrtIsNull, DaemonUnavailable):
            yield FAIL, f"the daemon of instance {instance} listens at {path} and does not answer", restart
        except WdkMutexError as error:
            yield FAIL, str(error), restart
        else:
            text = f"instance {instance} is served by pid {facts.get('pid')}, version {facts.get('version')}"
            if facts.get("version") != __version__:
                yield WARN, f"{text}; the library is version {__version__}", restart
            else:
                yield OK, text, ""
    if not some:
        yield OK, "none is running", ""


def _namespace() -> Found:
    inode = identity.pid_namespace()
    where = "the machine's own" if inode == _INITIAL_PID_NAMESPACE else "a container's"
    yield (
        OK,
        f"{inode}, {where}; mutexes are shared only within the same pid namespace (docs/how-to/containers.md)",
        "",
    )


def _library() -> Found:
    from wdkmutex_shm import KMutex

    libc, version = platform.libc_ver()
    text = f"version {__version__}, Python {platform.python_version()}, {libc} {version}"
    try:
        mutex = KMutex(0)
        with mutex.lock(1.0) as guard:
            guard.value += 1
        works = mutex.to_owned() == 1
    except WdkMutexError as error:
        yield FAIL, f"{text}; no mutex can be created: {error}", "see the findings above"
        return
    yield (OK if works else FAIL), f"{text}; a mutex was created, locked and freed", "" if works else "report this"
