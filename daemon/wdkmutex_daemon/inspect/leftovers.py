"""What lies in shared memory, and whose it is: the part of the doctor that looks there.

It advises to remove only what nobody uses, as far as the kernel tells that (:mod:`wdkmutex_shm.memory.in_use`).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

from wdkmutex_shm.base import identity
from wdkmutex_shm.base.layout import LAYOUT
from wdkmutex_shm.base.names import data_ident, pool_segment, user_prefix
from wdkmutex_shm.core._core import Segment, free_dead, references, tenants
from wdkmutex_shm.engines.local.client import connect
from wdkmutex_shm.errors import (
    DaemonUnavailable,
    GrtIsNull,
    LayoutMismatch,
    OtherPidNamespace,
    SegmentRefused,
    WdkMutexError,
)
from wdkmutex_shm.memory import data_segments, in_use, shm
from wdkmutex_shm.pool import removed

__all__ = ["FAIL", "OK", "WARN", "Found", "mib", "segments"]

OK, WARN, FAIL = "ok", "warn", "fail"

Found = Iterator[tuple[str, str, str]]

#: The layout since which everyone who uses a pool has it locked.
_LOCKED_SINCE = 5
_PRIVATE = re.compile(r"@(\d+)\.(\d+)(?:\.([0-9a-f]{8,}))?(?:\.[0-9a-f]{8})?\Z")
_DEMO = re.compile(r"demo-(\d+)-[0-9a-f]+\Z")


def mib(size: float) -> str:
    """Return a size in bytes for people."""
    return f"{size / (1 << 20):,.0f} MiB"


def segments() -> Found:
    """Yield level, text and remedy of what is found in shared memory."""
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
        if private and int(private[3] or "0", 16) != identity.pid_namespace():
            yield from _foreign_private_pool(prefix, names)
            continue
        unreadable = list(_unreadable(prefix, names))
        yield from unreadable
        if unreadable:
            continue
        yield from _locks_of_dead(prefix, names)
        if private:
            yield from _private_pool(prefix, names, int(private[1]), int(private[2]))
        else:
            yield from _missing(prefix, _pools(prefix, names))
            yield from _instance_pool(prefix, names)
    yield from _removed()
    yield OK, f"{sum(map(len, groups.values()))} of this user, {mib(size)}", ""


def _removed() -> Found:
    """Pools whose files are gone, and that somebody still uses."""
    for found in removed.mapped(user_prefix()):
        segment = removed.segment_of(found)
        if segment is None or segment.destroyed or not tenants(segment):
            continue
        instance = segment.prefix[len(user_prefix()) :]
        yield (
            WARN,
            f"process {found.pid} uses a removed segment of instance {instance} ({found.name}): no other process "
            "can find its mutexes",
            f"wdkmutex-daemon start --instance {instance} (ends them: their handles raise MutexDestroyed); see "
            "docs/how-to/cron-and-systemd.md on RemoveIPC",
        )


def _missing(prefix: str, pools: list[str]) -> Found:
    """Segments of an instance that the numbers of the others say there must be."""
    numbers = [int(name[len(prefix) + 2 :]) for name in pools if name[len(prefix) + 2 :].isdigit()]
    for number in sorted(set(range(max(numbers, default=-1))) - set(numbers)):
        instance = prefix[len(user_prefix()) :]
        yield (
            FAIL,
            f"instance {instance}: {pool_segment(prefix, number)} was removed; the names in it and in later segments "
            "are lost",
            f"wdkmutex-daemon restart --instance {instance} (continues with the segments before it)",
        )


def _size_of(name: str) -> int:
    try:
        return os.stat(shm.FOLDER + name).st_size
    except FileNotFoundError:
        return 0


def _pools(prefix: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(prefix + ".p")]


def _unreadable(prefix: str, names: list[str]) -> Found:
    """Segments that this library cannot use, or not here."""
    for name in _pools(prefix, names):
        try:
            Segment.attach(name, prefix)
        except FileNotFoundError:
            continue  # it went while we looked
        except OtherPidNamespace as error:
            yield _foreign_pool(prefix, _pools(prefix, names), error)
            return
        except LayoutMismatch as error:
            if error.field in ("magic", "size"):
                yield WARN, f"{name} is incomplete: its maker died", "wdkmutex-daemon sweep"
                continue
            layout = error.found if error.field == "layout" else LAYOUT
            if any(map(_is_used, _pools(prefix, names))):
                remedy = "it is in use: use the version that made it, or another instance"
            elif layout < _LOCKED_SINCE:
                remedy = (
                    "use the version that made it, or end every process that uses it (unknown from here), and "
                    f"then: rm {shm.FOLDER}{prefix}.*"
                )
            else:
                remedy = f"use the version that made it, or remove it (no process uses it): rm {shm.FOLDER}{prefix}.*"
            yield FAIL, f"{name}: {error.field} is {error.found!r} there and {error.expected!r} here", remedy
        except SegmentRefused as error:
            yield FAIL, str(error), f"ask uid {error.owner_uid} or root to remove {shm.FOLDER}{name}"


def _foreign_pool(prefix: str, pools: list[str], error: OtherPidNamespace) -> tuple[str, str, str]:
    """An instance's pool whose pids mean nothing here."""
    instance = prefix[len(user_prefix()) :]
    where = f"{error.field} {error.found!r}, not {error.expected!r}"
    if any(map(_is_used, pools)):
        return (
            WARN,
            f"instance {instance} is in use by processes of another container ({where})",
            "let the containers share one pid namespace (docs/how-to/containers.md), or set WDKMUTEX_INSTANCE in one "
            "of them",
        )
    return (
        WARN,
        f"instance {instance} was left by a container that no longer exists ({where})",
        f"wdkmutex-daemon start --instance {instance} (continues with its mutexes); or free them: "
        f"wdkmutex-daemon destroy --instance {instance}",
    )


def _foreign_private_pool(prefix: str, names: list[str]) -> Found:
    """What a process has made whose pid means nothing here."""
    if not any(map(_is_used, names)):
        yield WARN, f"a process of another container left {len(names)} segments ({prefix}.*)", "wdkmutex-daemon sweep"


def _locks_of_dead(prefix: str, names: list[str]) -> Found:
    """Locks beyond the 2,048 that the kernel releases when a thread ends. Who waits for one frees it as well."""
    freed = 0
    for name in _pools(prefix, names):
        with contextlib.suppress(FileNotFoundError):
            freed += free_dead(Segment.attach(name, prefix))
    if freed:
        yield OK, f"{freed} locks of {prefix} were still held by dead threads; they are now free", ""


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
                f"{name} is owned by uid {owner}: locks work, but waiters and deadlocks are not shown",
                f"ask uid {owner} or root to remove {shm.FOLDER}{name}",
            )
        elif not _is_used(name):
            yield WARN, f"{name} is not used by any process", "wdkmutex-daemon sweep"


def _is_used(name: str) -> bool:
    """Whether a process has a segment or journal flocked, as all do that use it; its maker may well be dead."""
    try:
        fd = shm.open_segment(name)
    except (FileNotFoundError, WdkMutexError):
        return False
    try:
        return not in_use.alone(fd)
    finally:
        fd.close()


def _instance_pool(prefix: str, names: list[str]) -> Found:
    instance = prefix[len(user_prefix()) :]
    start = f"wdkmutex-daemon start --instance {instance}"
    pools = _pools(prefix, names)
    orphans = _orphans(prefix, names)
    if not pools:
        if orphans:
            yield (
                WARN,
                f"{len(orphans)} data segments of instance {instance} were left by dead processes",
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
        f"instance {instance} has {len(names)} segments and no daemon: its mutexes work, but their names cannot be "
        "found",
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
        header = data_segments.header_of(name, fd)
    except LayoutMismatch:
        return False
    finally:
        fd.close()
    ours = (header.boot_id, header.pid_namespace) == (identity.boot_id(), identity.pid_namespace())
    return ours and identity.is_dead(header.creator_pid, header.creator_start)
