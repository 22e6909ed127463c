"""What is wrong with this machine, or with what was left on it, and what to do about each.

No daemon is needed, and nothing is repaired here but locks that the dead hold. Each check is a function that yields
findings; whatever it raises becomes a finding as well, so that one broken thing does not hide the others. The last one
makes a mutex for a trial; as always when a process makes its first, memory that dead processes left is swept then,
after it was reported.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import resource
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from wdkmutex_shm import __version__, data, identity, paths, shm
from wdkmutex_shm._segment import Segment
from wdkmutex_shm._tenant import free_dead, references
from wdkmutex_shm.client import connect
from wdkmutex_shm.errors import (
    DaemonUnavailable,
    GrtIsNull,
    KernelUnsupported,
    LayoutMismatch,
    ProtocolError,
    RuntimeFolderRefused,
    SegmentRefused,
    WdkMutexError,
)
from wdkmutex_shm.names import data_ident, user_prefix

__all__ = ["FAIL", "OK", "WARN", "Finding", "examine"]

OK, WARN, FAIL = "ok", "warn", "fail"

#: Below this /dev/shm is likely to be the 64 MiB of a container, which a few large T fill.
SMALL_SHM = 64 << 20
#: Below this not even a first pool segment is sure to fit.
NO_ROOM = 1 << 20
FEW_FILES = 256
LITTLE_MEMLOCK = 1 << 20

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO
_PRIVATE = re.compile(r"@(\d+)\.(\d+)\.[0-9a-f]+\Z")
_DEMO = re.compile(r"demo-(\d+)\Z")


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


Found = Iterator[tuple[str, str, str]]


def examine() -> list[Finding]:
    """Run all checks for the calling user and return what they found."""
    checks: list[tuple[str, Callable[[], Found]]] = [
        ("/dev/shm", _shm),
        ("limits", _limits),
        ("runtime folder", _runtime_folder),
        ("daemons", _daemons),
        ("segments", _segments),
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
                Finding(name, FAIL, f"could not be looked at: {type(error).__name__}: {error}", "report this")
            )
    return findings


def _mib(size: float) -> str:
    return f"{size / (1 << 20):,.0f} MiB"


def _shm() -> Found:
    grow = "mount -o remount,size=1G /dev/shm (docker: run --shm-size=1g; Kubernetes: an emptyDir of medium Memory)"
    if not os.access(shm.FOLDER, os.R_OK | os.W_OK | os.X_OK):
        yield FAIL, f"{shm.FOLDER} is missing or not writable", f"mount -t tmpfs -o mode=1777 tmpfs {shm.FOLDER}"
        return
    status = os.statvfs(shm.FOLDER)
    size, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
    text = f"{_mib(free)} free of {_mib(size)}"
    if free < NO_ROOM or (status.f_files and not status.f_ffree):
        yield FAIL, text + (", no inode free" if free >= NO_ROOM else ""), f"remove what is not needed in it, or {grow}"
    elif size <= SMALL_SHM or free < SMALL_SHM // 4:
        yield WARN, text + ": little room", grow
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
    text = f"{'unlimited' if soft == unlimited else _mib(soft)} of memory may be locked"
    if os.environ.get("WDKMUTEX_MLOCK") == "1" and soft != unlimited and soft < LITTLE_MEMLOCK and os.geteuid() != 0:
        yield (
            FAIL,
            f"{text}, and WDKMUTEX_MLOCK=1 wants segments locked",
            "ulimit -l unlimited, or LimitMEMLOCK= in the service",
        )
    else:
        yield OK, text, ""


def _runtime_folder() -> Found:
    base = os.environ.get("XDG_RUNTIME_DIR")
    try:
        folder = paths.runtime_folder(create=False)
    except RuntimeFolderRefused as error:
        text, _, remedy = str(error).partition("; ")
        yield FAIL, text, remedy
        return
    if base and not folder.startswith(base):
        yield (
            WARN,
            f"XDG_RUNTIME_DIR={base} is not a directory of ours; {folder} is used",
            "make it one, or unset it; processes of one instance find each other all the same",
        )
    room = paths.SOCKET_PATH_MAX - len(os.fsencode(folder)) - len("/.sock")
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
        yield OK, f"{folder} will be made by the first daemon", ""


def _sockets() -> list[str]:
    """The instances that have a socket in the runtime folder."""
    try:
        folder = paths.runtime_folder(create=False)
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
        path = paths.socket_path(instance, create=False)
        if not _answers(path):
            yield (
                WARN,
                f"{path} is stale: its daemon died",
                f"wdkmutex-daemon start --instance {instance} (takes its place), or rm {path}",
            )
            continue
        restart = f"wdkmutex-daemon restart --instance {instance}"
        try:
            with connect(instance, timeout=2.0) as client:
                facts = client.daemon
        except ProtocolError as error:
            yield FAIL, f"the daemon of instance {instance} is of another version: {error}", restart
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


def _segments() -> Found:
    groups: dict[str, list[str]] = {}
    for name in shm.listing(user_prefix()):
        groups.setdefault(name.rpartition(".")[0], []).append(name)
    size = 0
    for prefix, names in sorted(groups.items()):
        size += sum(_size_of(name) for name in names)
        if prefix.startswith(f"{user_prefix()}@waits"):
            yield from _boards(names)
            continue
        private = _PRIVATE.search(prefix)
        unreadable = list(_unreadable(prefix, names))
        yield from unreadable
        if unreadable:
            continue
        yield from _locks_of_dead(prefix, names)
        if private:
            yield from _private_pool(prefix, names, int(private[1]), int(private[2]))
        else:
            yield from _instance_pool(prefix, names)
    yield OK, f"{sum(map(len, groups.values()))} of ours, {_mib(size)}", ""


def _size_of(name: str) -> int:
    try:
        return os.stat(shm.FOLDER + name).st_size
    except FileNotFoundError:
        return 0


def _pools(prefix: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(prefix + ".p")]


def _unreadable(prefix: str, names: list[str]) -> Found:
    """Segments that this library cannot use."""
    for name in _pools(prefix, names):
        try:
            Segment.attach(name, prefix)
        except FileNotFoundError:
            continue  # it went while we looked
        except LayoutMismatch as error:
            if error.field in ("magic", "size"):
                yield WARN, f"{name} was never finished: its maker died", "wdkmutex-daemon sweep"
            else:
                yield (
                    FAIL,
                    f"{name}: {error.field} is {error.found!r} there and {error.expected!r} here",
                    "use the version (and container) that made it, or remove it when nobody does: "
                    f"rm {shm.FOLDER}{prefix}.*",
                )
        except SegmentRefused as error:
            yield FAIL, str(error), f"have uid {error.owner_uid} or root remove {shm.FOLDER}{name}"


def _locks_of_dead(prefix: str, names: list[str]) -> Found:
    """Locks beyond the 2,048 that the kernel releases when a thread ends. Who waits for one frees it as well."""
    freed = 0
    for name in _pools(prefix, names):
        with contextlib.suppress(FileNotFoundError):
            freed += free_dead(Segment.attach(name, prefix))
    if freed:
        yield OK, f"{freed} locks of {prefix} were still held by threads that died; they are free now", ""


def _private_pool(prefix: str, names: list[str], pid: int, start: int) -> Found:
    if identity.is_dead(pid, start) and not any(_is_used(name) for name in _pools(prefix, names)):
        yield WARN, f"process {pid} died and left {len(names)} segments ({prefix}.*)", "wdkmutex-daemon sweep"


def _boards(names: list[str]) -> Found:
    """The segments on which waiters write down what they wait for."""
    for name in (name for name in names if os.path.lexists(shm.FOLDER + name)):
        owner = os.lstat(shm.FOLDER + name).st_uid
        if owner != os.geteuid():
            yield (
                WARN,
                f"{name} is owned by uid {owner}: locks work, but nobody is told who waits, nor of a deadlock",
                f"have uid {owner} or root remove {shm.FOLDER}{name}",
            )
        elif not _is_used(name):
            yield WARN, f"{name} is used by nobody", "wdkmutex-daemon sweep"


def _is_used(name: str) -> bool:
    """Whether a process has a segment of a private pool flocked, as all do that use it; its maker may well be dead."""
    try:
        fd = shm.open_segment(name)
    except (FileNotFoundError, WdkMutexError):
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        fd.close()
    return False


def _instance_pool(prefix: str, names: list[str]) -> Found:
    instance = prefix[len(user_prefix()) :]
    start = f"wdkmutex-daemon start --instance {instance}"
    pools = _pools(prefix, names)
    orphans = _orphans(prefix, names)
    if not pools:
        if orphans:
            yield (
                WARN,
                f"{len(orphans)} data segments of instance {instance} are left of dead processes",
                f"{start}, then stop",
            )
        return
    if orphans:
        yield (
            WARN,
            f"{len(orphans)} data segments of instance {instance} belong to no mutex",
            f"wdkmutex-daemon sweep --instance {instance}",
        )
    demo = _DEMO.match(instance)
    if demo:
        if identity.has_ended(int(demo[1])):
            yield (
                WARN,
                f"a demo that was killed left instance {instance}",
                f"wdkmutex-daemon destroy --yes --instance {instance}",
            )
        return
    if _is_served(instance):
        return
    yield (
        WARN,
        f"instance {instance} has {len(names)} segments and no daemon: its mutexes work, their names are not found",
        f"{start}; or free them: wdkmutex-daemon destroy --instance {instance}",
    )


def _is_served(instance: str) -> bool:
    try:
        connect(instance, timeout=2.0).close()
    except (GrtIsNull, DaemonUnavailable):
        return False
    except WdkMutexError:
        pass  # told under "daemons"
    return True


def _orphans(prefix: str, names: list[str]) -> list[str]:
    """Data segments that no slot means and whose maker is dead."""
    used: set[int] = set()
    for name in _pools(prefix, names):
        try:
            used |= references(Segment.attach(name, prefix))
        except FileNotFoundError:
            continue
    found = []
    for name in names:
        ident = data_ident(prefix, name)
        if ident is not None and ident not in used and _maker_is_dead(name):
            found.append(name)
    return found


def _maker_is_dead(name: str) -> bool:
    try:
        fd = shm.open_segment(name)
    except (FileNotFoundError, WdkMutexError):
        return False
    try:
        header = data.header_of(name, fd)
    except LayoutMismatch:
        return False
    finally:
        fd.close()
    return identity.is_dead(header.creator_pid, header.creator_start)


def _namespace() -> Found:
    inode = identity.pid_namespace()
    where = "the machine's own" if inode == _INITIAL_PID_NAMESPACE else "a container's"
    yield OK, f"{inode}, {where}; mutexes are shared with processes in the same one only", ""


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
        yield FAIL, f"{text}; no mutex can be made: {error}", "see the findings above"
        return
    yield (OK if works else FAIL), f"{text}; a mutex was made, locked and freed", "" if works else "report this"
