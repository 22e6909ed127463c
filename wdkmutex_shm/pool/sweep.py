"""Removal of what dead processes left in shared memory, on proof of death only.

A private pool is dead when its maker is (by pid, start time, boot and pid namespace) and nobody holds the shared
flock(2) that everyone who uses the pool keeps on its segments. Without either proof it stays. A mapping keeps the lock
even when its descriptor is closed, and a fork shares it, so the kernel itself keeps this account. In another pid
namespace the maker's pid means nothing, and the locks alone tell: a maker has one on its first segment before it makes
another.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sys
import time
from collections.abc import Set

from ..base import identity
from ..base.layout import LAYOUT
from ..base.names import data_ident, private_prefix, user_prefix
from ..core import _core
from ..core._core import Segment, attached_segments
from ..errors import LayoutMismatch, PagedPoolAllocFailed, SegmentRefused
from ..memory import data_segments, in_use, journal_files, shm
from .pool import Pool

__all__ = ["dead_private_pools", "leave_board", "leave_private_pools", "orphan_data", "unused_boards"]

_PRIVATE = re.compile(r"/wdkm\.\d+\.@(\d+)\.(\d+)(?:\.([0-9a-f]{8,}))?\.[0-9a-f]{8}\.[pd]")
_ORPHAN_AGE = 60.0
_FEW = 1000  # so many names are looked through by each new process


def _private_pools(names: list[str]) -> dict[str, tuple[tuple[int, int, int], list[str]]]:
    """Of each private pool its segments and its maker: pid, start time, pid namespace (0: an older version's)."""
    found: dict[str, tuple[tuple[int, int, int], list[str]]] = {}
    for name in names:
        match = _PRIVATE.match(name)
        if match:
            maker = int(match[1]), int(match[2]), int(match[3] or "0", 16)
            found.setdefault(name[: match.end() - 2], (maker, []))[1].append(name)
    return found


def _ours(fd: int) -> bool:
    return os.fstat(fd).st_uid == os.geteuid()


def _unused(name: str, ours: bool) -> bool:
    """Whether nobody has a segment of a private pool locked, and those of its version lock them as we do.

    If its pids mean nothing here (not ``ours``), one that its maker may just be about to lock counts as used.
    """
    try:
        fd = shm.open_segment(name)
    except FileNotFoundError:
        return True
    except (SegmentRefused, PagedPoolAllocFailed):
        return False
    try:
        return (in_use.alone(fd) if ours else in_use.is_left(fd)) and (
            name.rpartition(".")[2].startswith("d") or _is_known(fd)
        )
    finally:
        fd.close()


def _is_known(fd: int) -> bool:
    """Whether a pool segment is of our layout, or was never published."""
    head = os.pread(fd, 12, 0)
    return len(head) < 12 or not any(head[:8]) or int.from_bytes(head[8:], sys.byteorder) == LAYOUT


def _remove(names: list[str], ours: bool) -> list[str]:
    """Remove the segments of one pool whose maker is dead, if nobody uses it.

    One at a time, for there may be more of them than descriptors. Nobody can begin to use it in between: a handle to it
    would have to come from somebody who uses it.
    """
    if not all(_unused(name, ours) for name in names):
        return []
    return [name for name in names if shm.unlink(name)]


def unused_boards(names: list[str] | None = None) -> list[str]:
    """Remove the wait boards of this user that no process has mapped, of ``names``, else of all. Returns their names.

    Everyone who maps a board has a shared flock(2) on it. Who gets an exclusive one is alone with it, and whoever opens
    it meanwhile sees, once it has its lock, that the board has no name any more.
    """
    removed = []
    for name in shm.listing(f"{user_prefix()}@waits") if names is None else names:
        try:
            fd = shm.open_segment(name)
        except (FileNotFoundError, SegmentRefused, PagedPoolAllocFailed):
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.stat(shm.FOLDER + name)) and shm.unlink(name):
                removed.append(name)
        except (BlockingIOError, FileNotFoundError):
            continue
        finally:
            fd.close()
    return removed


def leave_board() -> None:
    """At the end of a process: let go of the wait board, and remove it if nobody else has it."""
    with contextlib.suppress(OSError):
        if os.path.exists(_core.wait_board_path()) and _core.close_wait_board():
            unused_boards(["/" + os.path.basename(_core.wait_board_path())])


def dead_private_pools() -> list[str]:
    """Remove the private pools of dead processes, journals and wait boards that nobody uses. Returns their names."""
    mine = user_prefix() + "@"
    names = shm.listing(mine)
    removed = unused_boards([name for name in names if name.startswith(f"{mine}waits")])
    me = identity.me()
    here = identity.pid_namespace()
    own = private_prefix(*me, here, identity.image())
    for prefix, ((pid, start, namespace), segments) in _private_pools(names).items():
        # This very process may have left one as well: the program that it ran before an exec did.
        ours = namespace == here
        if prefix != own and (not ours or (pid, start) == me or identity.is_dead(pid, start)):
            removed += _remove(segments, ours)
    return removed + journal_files.sweep(names)


def dead_private_pools_now_and_then() -> None:
    """As :func:`dead_private_pools`, but where there are thousands of segments, for one in many processes.

    For each new process of a user: all that it finds was left by processes that were killed, and to look through a
    hundred thousand names takes longer than anything else at its start.
    """
    try:
        share = os.stat(shm.FOLDER).st_size // 20 // _FEW  # a folder of tmpfs has 20 bytes for each name
    except OSError:
        return  # whoever makes a segment there is told why not
    if share <= 1 or int.from_bytes(os.urandom(4), "little") % share == 0:
        dead_private_pools()


def leave_private_pools() -> None:
    """At the end of a process: remove its own pool, and those of dead makers that it uses, if nobody else uses them."""
    pools: dict[str, list[Segment]] = {}
    for segment in attached_segments():
        if ".@" in segment.prefix:
            pools.setdefault(segment.prefix, []).append(segment)
    for prefix, segments in pools.items():
        pid, start = segments[0].creator
        if ((pid, start) == identity.me() or identity.is_dead(pid, start)) and _only_user(segments):
            for segment in segments:
                segment.abandon()
            for name in shm.listing(prefix + "."):
                with contextlib.suppress(SegmentRefused):  # made before this process changed its user
                    shm.unlink(name)


def _only_user(segments: list[Segment]) -> bool:
    """Whether no other process uses these segments of one pool, which the calling process has mapped and flocked."""
    try:
        for segment in segments:
            segment.unshare()
        for segment in segments:
            fcntl.flock(segment.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except (OSError, SegmentRefused, PagedPoolAllocFailed):
        return False
    finally:
        with contextlib.suppress(OSError):
            for segment in segments:
                if segment.descriptor >= 0:
                    fcntl.flock(segment.descriptor, fcntl.LOCK_SH)


def orphan_data(pool: Pool, known: Set[int] = frozenset()) -> list[str]:
    """Remove the data segments of an instance that belong to no mutex and whose maker is dead. Returns their names.

    What a client made for a registration, or a holder for a commit, that never came about. For the daemon only.

    Args:
        pool: the instance's.
        known: ids of data segments that mutexes had a moment ago; this does not look at them.
    """
    dead = [
        (ident, name)
        for name in shm.listing(pool.prefix + ".d")
        if (ident := data_ident(pool.prefix, name)) is not None and ident not in known and _maker_is_dead(name)
    ]
    if not dead or pool.is_replaced():
        return []
    references = pool.references()  # once their makers are dead, nobody can give these to a mutex any more
    return [name for ident, name in dead if ident not in references and shm.unlink(name)]


def _maker_is_dead(name: str) -> bool:
    try:
        fd = shm.open_segment(name)
    except (FileNotFoundError, SegmentRefused, PagedPoolAllocFailed):
        return False
    try:
        old = time.time() - os.fstat(fd).st_mtime > _ORPHAN_AGE
        header = data_segments.header_of(name, fd)
    except LayoutMismatch:
        return old  # its maker was killed before it wrote the header; a live one has a minute for that
    finally:
        fd.close()
    if (header.boot_id, header.pid_namespace) != (identity.boot_id(), identity.pid_namespace()):
        # Nobody there can use this pool, which is ours. But perhaps it just has been made for one who asks in vain.
        return old
    return identity.is_dead(header.creator_pid, header.creator_start)
