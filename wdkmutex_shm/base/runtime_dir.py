"""Where the sockets, lock files and logs of the daemons lie.

One folder for each user, mode 0700: ``$XDG_RUNTIME_DIR/wdkmutex`` where the session has a runtime directory that
belongs to us, else ``/tmp/wdkmutex-<uid>``. Whoever can write there could answer in the daemon's place, so the folder
is looked at (without following a link) before every use, and refused rather than repaired.
"""

from __future__ import annotations

import os
import stat

from ..errors import RuntimeFolderRefused
from ._os import planted
from .names import check_instance

__all__ = ["SOCKET_PATH_MAX", "lock_path", "log_path", "runtime_folder", "socket_path", "start_lock_path"]

SOCKET_PATH_MAX = 107
"""Bytes that fit into ``sun_path`` beside its closing NUL."""


def _session_folder(uid: int) -> str | None:
    """``$XDG_RUNTIME_DIR`` if it is what the XDG specification says: absolute, a directory, ours.

    After ``su`` or in a service the variable may be stale or name another user's directory: then it is not ours to use.
    """
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if not os.path.isabs(base):
        return None
    try:
        found = os.stat(base)
    except OSError:
        return None
    return base if stat.S_ISDIR(found.st_mode) and found.st_uid == uid else None


def _folder_name() -> str:
    uid = os.geteuid()
    base = _session_folder(uid)
    return f"/tmp/wdkmutex-{uid}" if base is None else os.path.join(base, "wdkmutex")


def _check_folder(path: str) -> None:
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise RuntimeFolderRefused(
            f"{path} is not a directory; remove it (rm {path}) or set XDG_RUNTIME_DIR to a directory of your own",
            path=path,
        )
    if found.st_uid != os.geteuid() and not planted("no-owner-check"):
        raise RuntimeFolderRefused(
            f"{path} belongs to uid {found.st_uid}, not to us (uid {os.geteuid()}); ask its owner or root to remove "
            "it, "
            "or set XDG_RUNTIME_DIR to a directory of your own",
            path=path,
        )
    if found.st_mode & 0o077:
        raise RuntimeFolderRefused(
            f"{path} is open to other users (mode {stat.S_IMODE(found.st_mode):04o}); check its contents, "
            f"then close it: chmod 700 {path}",
            path=path,
        )


def runtime_folder(*, create: bool = True) -> str:
    """The folder for sockets, checked.

    Args:
        create: make it if it is missing.

    Returns:
        Its absolute path. With ``create=False`` it may not exist.

    Raises:
        RuntimeFolderRefused: it is a link or a file, belongs to another user, is open to others or cannot be made.
            The message names the path and the remedy.
    """
    path = _folder_name()
    try:
        if create:
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                pass
            else:
                os.chmod(path, 0o700)  # whatever the umask took away; nobody else can replace what we just made
        _check_folder(path)
    except FileNotFoundError:
        if create:
            raise RuntimeFolderRefused(f"{path} vanished during the check; try again", path=path) from None
    except OSError as error:
        if isinstance(error, RuntimeFolderRefused):
            raise
        raise RuntimeFolderRefused(
            f"{path} cannot be used: {error.strerror}; set XDG_RUNTIME_DIR to a directory of your own", path=path
        ) from error
    return path


def socket_path(instance: str, *, create: bool = True) -> str:
    """Path of the Unix socket of an instance.

    Args:
        instance: name of the instance.
        create: make the runtime folder if it is missing.

    Raises:
        InvalidName: the name is not valid for an instance.
        RuntimeFolderRefused: the folder is not safe, or the path is longer than a Unix socket's can be.
    """
    path = os.path.join(runtime_folder(create=create), f"{check_instance(instance)}.sock")
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_MAX:
        raise RuntimeFolderRefused(
            f"{path} is {length} bytes long and a socket's path can have {SOCKET_PATH_MAX}; "
            "set XDG_RUNTIME_DIR to a shorter path or use a shorter instance name",
            path=path,
        )
    return path


def lock_path(instance: str) -> str:
    """The file that the daemon of an instance keeps locked for life."""
    return os.path.join(runtime_folder(), f"{check_instance(instance)}.lock")


def start_lock_path(instance: str) -> str:
    """The file that is locked by whoever is starting the daemon of an instance."""
    return os.path.join(runtime_folder(), f"{check_instance(instance)}.start.lock")


def log_path(instance: str) -> str:
    """The file that a detached daemon writes its log to."""
    return os.path.join(runtime_folder(), f"{check_instance(instance)}.log")
