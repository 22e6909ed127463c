"""Starting the daemon of an instance: one, however many processes ask at once.

Who finds no daemon takes the instance's start lock, looks again, and starts one. The others look for its socket
meanwhile. The daemon detaches itself (fork, setsid), so its starter keeps no child; a pipe tells when it serves, or
why it does not.
"""

from __future__ import annotations

import os
import re
import resource
import select
import shlex
import shutil
import subprocess
import sys
import time

from ...base import frozen, runtime_dir
from ...base._os import above
from ...base.lockfile import LockFile
from ...base.names import check_instance
from ...errors import DaemonUnavailable, GrtIsNull, ProtocolError
from ...protocol.messages import READY, Frames, decode_reply
from .client import Client

__all__ = ["command", "start"]

_LOOK_EVERY = 0.02
_LOOK_AT_LEAST_EVERY = 0.2
_STALE_AFTER = 1.0
# The name of an interpreter: python3.11, python3.13t, python3-dbg. What has it in its name may be anybody's program.
_PYTHON = re.compile(r"(python|pypy|graalpy)[0-9.]*[dmtu]*(-dbg|-debug)?")


def command() -> list[str]:
    """The command that runs the daemon's command line: ``WDKMUTEX_DAEMON`` (split as a shell does), else this Python
    with ``-m wdkmutex_daemon`` or this frozen program where it takes that upon itself, else (where there is none of
    them) the script ``wdkmutex-daemon``.

    Raises:
        DaemonUnavailable: there is none of them.
    """
    override = os.environ.get("WDKMUTEX_DAEMON")
    if override:
        return shlex.split(override)
    if frozen.is_frozen():
        itself = frozen.command()
        if itself is not None:
            return itself
        what = "this program is frozen and does not call wdkmutex_shm.freeze_support() before anything else"
    else:
        python = _interpreter()
        if python is not None:
            return [python, "-m", frozen.DAEMON]
        what = "this process does not run in a python executable"
    script = shutil.which("wdkmutex-daemon")
    if script is None:
        raise DaemonUnavailable(
            f"the daemon cannot be started: {what}, and there is no wdkmutex-daemon on PATH; start it yourself, or set "
            "WDKMUTEX_DAEMON to its command"
        )
    return [script]


def _interpreter() -> str | None:
    """The interpreter of the environment that this process imports from, None if there is none.

    A server that embeds Python, as uWSGI does, says that it is itself ``sys.executable``, or names the interpreter that
    the environment was made with, which does not know what is installed there.
    """
    folder = os.path.join(sys.prefix, "bin")
    python = sys.executable or ""
    found = python if _PYTHON.fullmatch(os.path.basename(python)) else None
    if found is not None and os.path.dirname(found) == folder:
        return found
    for name in (f"python{sys.version_info[0]}.{sys.version_info[1]}", "python3"):
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK):
            return path
    return found


def start(instance: str, timeout: float = 10.0) -> bool:
    """See to it that a daemon serves ``instance``.

    Args:
        instance: name of the instance.
        timeout: seconds.

    Returns:
        True if this call started it, False if one serves already.

    Raises:
        DaemonUnavailable: it did not come up in time, or ended at once; the message names its log.
        PagedPoolAllocFailed: there is no room in /dev/shm for its pool. Other errors of the daemon's start likewise.
        RuntimeFolderRefused: the runtime folder is not safe.
    """
    deadline = time.monotonic() + timeout
    path = runtime_dir.start_lock_path(check_instance(instance))
    lock = LockFile(path)
    pause = _LOOK_EVERY
    while True:
        if _answers(instance, deadline):
            return False
        # Whoever holds the lock has made its file and will remove it: to look for that is cheaper than to try the lock.
        if not _just_made(path) and _try(lock, instance):
            break
        if time.monotonic() >= deadline:
            raise DaemonUnavailable(
                f"another process is starting the daemon of instance {instance!r} and did not succeed within "
                f"{timeout:g} s; look into {runtime_dir.log_path(instance)}",
                name=instance,
                instance=instance,
            )
        time.sleep(pause)
        pause = min(1.5 * pause, _LOOK_AT_LEAST_EVERY)  # hundreds may be waiting, and the starter needs a processor
    try:
        if _answers(instance, deadline):
            return False
        _spawn(instance, deadline)
        return True
    finally:
        lock.release(remove=True)


def _try(lock: LockFile, instance: str) -> bool:
    try:
        return lock.try_acquire()
    except OSError as error:
        raise _cannot_start(instance, error) from None


def _cannot_start(instance: str, error: OSError) -> DaemonUnavailable:
    """The error of a process that lacks what it takes to start a daemon: descriptors, room for a file."""
    where = f"{error.filename}: " if error.filename else ""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    small = f"; the file size limit is {limit} bytes: raise it (ulimit -f, LimitFSIZE=)" if 0 <= limit < 1 << 20 else ""
    return DaemonUnavailable(
        f"the daemon of instance {instance!r} cannot be started: {where}{error.strerror}{small}",
        name=instance,
        instance=instance,
        path=error.filename,
    )


def _just_made(path: str) -> bool:
    try:
        return abs(time.time() - os.stat(path).st_mtime) < _STALE_AFTER
    except OSError:
        return False


def _answers(instance: str, deadline: float) -> bool:
    try:
        with Client(instance, timeout=max(deadline - time.monotonic(), 0.05)) as client:
            client.open()
    except (GrtIsNull, DaemonUnavailable):
        return False
    return True


def _spawn(instance: str, deadline: float) -> None:
    """Start a daemon and wait until it serves."""
    log, daemon = runtime_dir.log_path(instance), command()
    try:
        receiving, sending = map(above, os.pipe())
    except OSError as error:
        raise _cannot_start(instance, error) from None
    words = [*daemon, "run", "--instance", instance, "--ready-fd", str(sending)]
    # A frozen program's loader may remove its files when the process that it started ends, as detaching does.
    words = frozen.left_alone(words) if frozen.is_frozen() else [*words, "--detach"]
    try:
        try:
            output = above(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600))
        except OSError as error:
            os.close(sending)
            raise _cannot_start(instance, error) from None
        try:
            starter = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                pass_fds=(sending,),
                env=frozen.environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise DaemonUnavailable(
                f"the daemon cannot be started: {shlex.join(daemon)}: {error.strerror}; set WDKMUTEX_DAEMON to "
                "its command, or install the package for this Python",
                name=instance,
                instance=instance,
            ) from None
        finally:
            os.close(output)
            os.close(sending)
        try:
            said = _read_all(receiving, deadline)
        finally:
            _reap(starter)
    finally:
        os.close(receiving)
    if said == READY:
        return
    frames = Frames()
    frames.feed(said)
    failure = None
    try:
        frame = frames.next()
        if frame is not None:
            failure = decode_reply(frame)[1]
    except ProtocolError:
        pass
    what = "ended during startup" if time.monotonic() < deadline else "was not ready in time"
    raise failure or DaemonUnavailable(
        f"the daemon of instance {instance!r} {what}; see the log {log}. Its last line: {_last_line(log)}",
        name=instance,
        instance=instance,
    )


def _read_all(fd: int, deadline: float) -> bytes:
    """What is written to the pipe until it is closed, it is complete, or the deadline passes."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    said = b""
    while said != READY:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            break
        data = os.read(fd, 1 << 16)
        if not data:
            break
        said += data
    return said


def _reap(starter: subprocess.Popen[bytes]) -> None:
    """Wait for the process that was spawned; it ends as soon as the daemon has detached from it."""
    try:
        starter.wait(1.0)
    except subprocess.TimeoutExpired:  # it hangs before it has detached: there is no daemon yet
        starter.kill()
        starter.wait()


def _last_line(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        lines = []
    return next((line.strip() for line in reversed(lines) if line.strip()), "none")
