"""Named shared memory: made, opened, listed and removed through posix_ipc, and never trusted by name alone.

See shm_open(3), posix_fallocate(3). All sizes are bytes.
"""

from __future__ import annotations

import errno
import os

import posix_ipc

from ..base._os import Descriptor, open_shared, planted
from ..base.names import user_prefix
from ..errors import KernelUnsupported, PagedPoolAllocFailed, SegmentRefused

__all__ = ["FOLDER", "create", "listing", "open_segment", "size_of", "unlink", "unmake"]

#: Where Linux keeps POSIX shared memory (shm_overview(7)).
FOLDER = "/dev/shm"

_NO_ROOM = {errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EDQUOT, errno.EFBIG}
_NO_FOLDER = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR}
_REMEDY = {
    errno.ENOSPC: "enlarge /dev/shm (docker: --shm-size; else: mount -o remount,size=...) or free segments in it",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise fs.file-max",
    errno.EFBIG: "raise the limit of the size of files (ulimit -f, LimitFSIZE=), which counts for shared memory too",
    errno.ENOMEM: "free memory, or raise the limits of address space (ulimit -v) and, for WDKMUTEX_MLOCK, of locked "
    "memory (ulimit -l)",
    **dict.fromkeys(
        (errno.EPERM, errno.EAGAIN, errno.ENOSYS),
        "unset WDKMUTEX_MLOCK, or allow this process to lock memory: mlock(2), ulimit -l, LimitMEMLOCK=",
    ),
}


def no_room(name: str, size: int, error: OSError) -> PagedPoolAllocFailed:
    """Return the error for a segment for which there was no room, no descriptor or no address space."""
    code = error.errno or 0
    return PagedPoolAllocFailed(
        f"shared memory segment {name}: {size} bytes could not be allocated ({os.strerror(code)}); "
        + _REMEDY.get(code, "run `wdkmutex-daemon doctor` to check this machine"),
        name=name,
        requested=size,
        errno=code,
    )


def _open(name: str, flags: int, size: int) -> Descriptor:
    try:
        return open_shared(name, flags)
    except posix_ipc.PermissionsError:
        if flags & posix_ipc.O_CREAT or not _is_reachable(name):
            raise _no_folder(name, size, errno.EACCES) from None
        raise SegmentRefused(
            f"shared memory segment {name} belongs to another user; remove it or use another instance", name=name
        ) from None
    except posix_ipc.ExistentialError as error:
        if not flags & posix_ipc.O_CREAT:
            raise FileNotFoundError(str(error), name) from None
        if not os.path.isdir(FOLDER):
            raise _no_folder(name, size, errno.ENOENT) from None
        _refuse_others(name)
        raise FileExistsError(str(error), name) from None
    except ValueError:  # what shm_open(3) calls EINVAL: a folder, say
        raise SegmentRefused(
            f"{FOLDER}{name} is in the way and is not a shared memory segment; check and remove it", name=name
        ) from None
    except OSError as error:
        if error.errno is None:
            error = _descriptor_error() or error  # posix_ipc does not say which limit of descriptors was met
        if error.errno in _NO_ROOM:
            raise no_room(name, size, error) from None
        if error.errno in _NO_FOLDER:
            raise _no_folder(name, size, error.errno) from None
        raise


def _no_folder(name: str, size: int, code: int) -> PagedPoolAllocFailed:
    """Return the error where no segment can be made or opened at all."""
    mount = f"mount -t tmpfs -o mode=1777 tmpfs {FOLDER} (in a container: give it a tmpfs there)"
    if not os.path.isdir(FOLDER):
        what, way_out = f"there is no {FOLDER}", mount
    elif code == errno.EROFS:
        what, way_out = f"{FOLDER} is read-only", f"mount -o remount,rw {FOLDER}, or {mount}"
    else:
        what = f"uid {os.geteuid()} may not write to {FOLDER} ({os.strerror(code)})"
        way_out = f"chmod 1777 {FOLDER}, or {mount}"
    return PagedPoolAllocFailed(
        f"shared memory segment {name} cannot be used: {what}. Shared memory is kept there (shm_overview(7)); "
        f"{way_out}",
        name=name,
        requested=size,
        errno=code,
    )


def _is_reachable(name: str) -> bool:
    try:
        os.lstat(FOLDER + name)
    except PermissionError:
        return False
    except OSError:
        pass
    return True


def _refuse_others(name: str) -> None:
    """Raise SegmentRefused if the segment ``name``, which is in the way, belongs to another user."""
    try:
        owner = os.lstat(FOLDER + name).st_uid
    except FileNotFoundError:
        return
    if owner != os.geteuid():
        raise SegmentRefused(
            f"shared memory segment {name} cannot be made: uid {owner} owns one of that name; have it removed (by "
            "root or its owner), or use another instance",
            name=name,
            owner_uid=owner,
        )


def _descriptor_error() -> OSError | None:
    """Return the error that opening anything gives now, if it gives one."""
    try:
        os.close(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error
    return None


def create(name: str, size: int) -> Descriptor:
    """Make the segment ``name`` of ``size`` bytes, all of them reserved, and return its file descriptor.

    Reserving first means that writing to the segment can never raise SIGBUS.

    Raises:
        FileExistsError: the name is taken.
        PagedPoolAllocFailed: there is no room (or no descriptor); nothing is left behind.
        SegmentRefused: the name is taken by another user, or is of another user: this process has changed its own.
    """
    if not name.startswith(user_prefix()):
        # It would be this user's, and refused by all those who use what it is made for.
        raise SegmentRefused(
            f"shared memory segment {name} cannot be made by uid {os.geteuid()}, for its name is of another user: this "
            "process has changed its user since it attached",
            name=name,
        )
    maker = os.getpid()
    fd = _open(name, posix_ipc.O_CREX, size)
    try:
        os.fchmod(fd, 0o600)  # the umask may have taken bits of ours
        if planted("no-fallocate"):  # pragma: no cover - True in a build with planted faults only
            os.ftruncate(fd, size)
        else:
            os.posix_fallocate(fd, 0, size)
    except BaseException as error:
        fd.close()
        unmake(name, maker)
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise no_room(name, size, error) from None
        if isinstance(error, OSError) and error.errno in (errno.EPERM, errno.ENOSYS):
            raise KernelUnsupported(
                f"shared memory segment {name}: its memory cannot be reserved, because fallocate(2) is refused "
                f"({error.strerror}); allow it in the seccomp filter of the container or service",
                name=name,
                system_call="fallocate",
                errno=error.errno,
            ) from None
        raise
    return fd


def open_segment(name: str) -> Descriptor:
    """Open the segment ``name`` for reading and writing and return its file descriptor.

    Raises:
        FileNotFoundError: there is none.
        SegmentRefused: it is not owned by the effective user.
        PagedPoolAllocFailed: no descriptor is free.
    """
    fd = _open(name, 0, 0)
    try:
        owner = os.fstat(fd).st_uid
        if owner != os.geteuid() and not planted("no-owner-check"):
            raise SegmentRefused(
                f"shared memory segment {name} is owned by uid {owner}, not by uid {os.geteuid()}, and is refused",
                name=name,
                owner_uid=owner,
            )
    except BaseException:  # of a signal handler, too
        fd.close()
        raise
    return fd


def unlink(name: str) -> bool:
    """Remove the name of a segment; its memory goes when the last mapping goes. Tells whether it was there.

    Raises:
        SegmentRefused: it belongs to another user. OSError: it is no segment.
    """
    try:
        posix_ipc.unlink_shared_memory(name)
    except posix_ipc.ExistentialError:
        return False
    except posix_ipc.PermissionsError:
        raise SegmentRefused(f"shared memory segment {name} belongs to another user", name=name) from None
    except OSError as error:
        if error.errno == errno.EROFS:
            raise _no_folder(name, 0, errno.EROFS) from None
        raise
    return True


def unmake(name: str, maker: int) -> None:
    """Remove a segment whose making failed in process ``maker``; in a child forked meanwhile, do nothing."""
    if os.getpid() == maker:
        unlink(name)


def listing(prefix: str) -> list[str]:
    """Return the names of all segments that begin with ``prefix``, sorted (POSIX has no call for this)."""
    start = prefix.lstrip("/")
    return sorted("/" + entry for entry in _entries() if entry.startswith(start))


def _entries() -> list[str]:
    try:
        return os.listdir(FOLDER)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise _no_folder("/*", 0, error.errno or 0) from None


def size_of(prefix: str) -> int:
    """Return how many bytes the segments have together whose names begin with ``prefix``."""
    start, total = prefix.lstrip("/"), 0
    for entry in _entries():
        if entry.startswith(start):
            try:
                total += os.lstat(f"{FOLDER}/{entry}").st_size
            except FileNotFoundError:
                continue
    return total
