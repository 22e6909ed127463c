"""The life of a daemon: detach, be the only one, take the socket, recover the names, serve, end.

The order matters. The lock makes it the only one; the socket is there before the names are recovered, so that clients
wait instead of failing; it is ready when it can answer. At the end the socket and the lock go before the last reply is
sent: whoever reads that reply finds the place free.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import stat
import sys
import time
from collections.abc import Iterator

from wdkmutex_shm.base import runtime_dir
from wdkmutex_shm.base.lockfile import LockFile
from wdkmutex_shm.base.names import check_instance, instance_prefix
from wdkmutex_shm.engines.local.client import Client
from wdkmutex_shm.errors import DaemonUnavailable, GrtIsNull, OtherPidNamespace, RuntimeFolderRefused
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool import removed
from wdkmutex_shm.pool.pool import Pool
from wdkmutex_shm.protocol.messages import READY, encode_error

from . import systemd
from .acceptor import Acceptor
from .busy_poll import BusyPollSelector
from .housekeeping import Housekeeping, sweep_now
from .logs import set_up_log
from .pool_lock import PoolLock, ServedAlreadyError
from .registry import Registry
from .service import Service

__all__ = ["serve"]

log = logging.getLogger(__name__)

_BACKLOG = 1024
_LOCK_SECONDS = 5.0
_ELSEWHERE_SECONDS = 1.0
_LAST_REPLIES_SECONDS = 1.0
_DESCRIPTORS = 1 << 16


def serve(instance: str, *, ready_fd: int | None = None, detach: bool = False) -> int:
    """Serve an instance until it is stopped, destroyed, or ended by SIGTERM or SIGINT.

    Args:
        instance: name of the instance.
        ready_fd: a pipe that is told b"ready" when the daemon serves (or another one does already), else the error,
            and that is closed then.
        detach: leave the caller's session: the calling process ends with status 0 at once and a child of it serves,
            with the instance's log file as its output.

    Returns:
        0 when it has ended as it was told to, also when another daemon serves and ``ready_fd`` is given; 1 when a
        detached one could not serve (the pipe and the log say why), or when its socket or segments were removed.

    Raises:
        InvalidName: the name is not valid for an instance.
        DaemonError: another daemon serves the instance (without ``ready_fd``).
        PagedPoolAllocFailed, LayoutMismatch, SegmentRefused: the pool cannot be had.
        RuntimeFolderRefused: the folder for sockets is not safe, or the path of the socket is too long.
    """
    check_instance(instance)
    ready = _Ready(ready_fd)
    if detach:
        _detach()
    return _live(instance, ready, tells=ready_fd is not None, detach=detach)


def _live(instance: str, ready: _Ready, *, tells: bool, detach: bool) -> int:
    """As :func:`serve`, in the process that serves. ``tells``: somebody waits to be told."""
    try:
        if detach:
            _to_log_file(runtime_dir.log_path(instance))
        set_up_log()
        return 0 if _Life(instance, ready).run() else 1
    except ServedAlreadyError as error:
        if not tells:
            raise
        log.info("%s", error)
        ready.tell(READY)
    except BaseException as error:
        ready.tell(encode_error(error))
        if not detach:
            raise
        log.critical("the daemon of instance %r cannot serve: %s", instance, error)
        log.debug("", exc_info=True)
        return 1
    return 0


class _Ready:
    """The pipe to whoever waits for the daemon to be ready."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        if fd is not None:
            os.set_inheritable(fd, False)

    def tell(self, what: bytes) -> None:
        """Say it, the first time; nothing more is said then."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):  # nobody waits any more
                os.write(fd, what)
            os.close(fd)


def _detach() -> None:
    """Go on in a child that belongs to no terminal and no session of the caller's."""
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():  # pragma: no branch - in the child nothing is measured before its next call
        os._exit(0)
    os.setsid()
    os.chdir("/")


def _to_log_file(path: str) -> None:
    """Let the log file be the output, and nothing the input."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if os.fstat(fd).st_size > 1 << 20:  # what an earlier life wrote; the folder is often in memory
        os.ftruncate(fd, 0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(nothing)
    os.close(fd)


class _Life:
    """One life of a daemon, from the lock to the end."""

    def __init__(self, instance: str, ready: _Ready) -> None:
        self.instance = instance
        self._ready = ready
        self._lock = LockFile(runtime_dir.lock_path(instance))
        self._log_path = runtime_dir.log_path(instance)
        self._path = runtime_dir.socket_path(instance)
        self._inode: tuple[int, int] | None = None  # of the socket's path, when we made it

    def run(self) -> bool:
        """Serve until told to end. False if it ends because its files were removed, and another one should begin."""
        os.umask(0o077)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        _raise_descriptor_limit()
        self._take_lock()
        try:
            with self._take_socket() as sock, self._claimed_pool() as pool:
                pool.set_server(os.getpid(), self._path)
                loop = asyncio.SelectorEventLoop(BusyPollSelector())
                try:
                    return loop.run_until_complete(self._serve(sock, Registry(pool, self.instance)))
                finally:
                    loop.close()
        finally:
            self._retire(False)

    @contextlib.contextmanager
    def _claimed_pool(self) -> Iterator[Pool]:
        """The pool, once no other daemon writes it; one that cannot be reached any more notices that and ends."""
        prefix = instance_prefix(self.instance)
        begun = time.monotonic()
        deadline = begun + _LOCK_SECONDS
        while True:
            try:
                claim = PoolLock(prefix)
                pool = claim.__enter__()
                break
            except OtherPidNamespace:
                # They may just be ending, or another of our namespace is taking the pool over and has not done yet.
                if time.monotonic() >= begun + _ELSEWHERE_SECONDS:
                    raise
                time.sleep(0.05)
            except ServedAlreadyError:
                if self._answers_elsewhere(prefix):
                    raise
                if time.monotonic() >= deadline:
                    raise DaemonUnavailable(
                        _silent(self.instance, Pool.writer_of(prefix), Pool.server_of(prefix)),
                        name=self.instance,
                        instance=self.instance,
                    ) from None
                time.sleep(0.05)
        try:
            yield pool
        finally:
            claim.__exit__()

    def _answers_elsewhere(self, prefix: str) -> bool:
        """Whether somebody listens at the socket that the pool's last daemon wrote into it."""
        server = Pool.server_of(prefix)
        if server is None or server[1] == self._path:
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(server[1]) == 0

    def _what_is_lost(self, pool: Pool) -> str | None:
        """What was taken away from under this daemon: its socket, by which it is reached, or some of its pool."""
        segment = removed.lost(pool)
        if segment is not None:
            return shm.FOLDER + segment.name
        if self._inode is None:
            return None
        try:
            found = os.lstat(self._path)
        except FileNotFoundError:
            return self._path
        return None if (found.st_dev, found.st_ino) == self._inode else self._path

    def _take_lock(self) -> None:
        """Be the only daemon of the instance; wait a little for one that is just ending."""
        deadline = time.monotonic() + _LOCK_SECONDS
        while not self._lock.try_acquire():
            self._look_for_another(deadline - time.monotonic())
            if time.monotonic() >= deadline:
                raise DaemonUnavailable(
                    f"another process holds {self._lock.path} and does not answer; find it with: fuser "
                    f"{self._lock.path}",
                    name=self.instance,
                    path=self._lock.path,
                )
            time.sleep(0.02)

    def _look_for_another(self, seconds: float) -> None:
        """Raise if a daemon of the instance answers, in our session's folder or where it told its pool that it is."""
        try:
            with Client(self.instance, timeout=max(seconds, 0.1)) as client:
                client.open()
                pid = client.daemon.get("pid")
        except (GrtIsNull, DaemonUnavailable):
            return
        raise ServedAlreadyError(
            f"instance {self.instance!r} is already served by pid {pid} at {client.path}; "
            f"stop it first: wdkmutex-daemon stop --instance {self.instance}",
            name=self.instance,
            instance=self.instance,
        )

    def _take_socket(self) -> socket.socket:
        given = systemd.listening_socket()
        if given is not None:
            self._path = os.fsdecode(given.getsockname())
            return given
        self._look_for_another(_LOCK_SECONDS)
        self._remove_stale()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(self._path)
            os.chmod(self._path, 0o600)
            found = os.lstat(self._path)
            self._inode = (found.st_dev, found.st_ino)
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            raise RuntimeFolderRefused(
                f"the socket {self._path} cannot be made: {error.strerror}", path=self._path
            ) from error
        return sock

    def _remove_stale(self) -> None:
        """Remove the socket of a dead daemon; nobody answers there and we have the lock."""
        try:
            found = os.lstat(self._path)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
            raise RuntimeFolderRefused(
                f"{self._path} is not a socket of this user (uid {found.st_uid}); check it and remove it: rm "
                f"{self._path}",
                path=self._path,
            )
        log.info("removed the socket of a dead daemon: %s", self._path)
        os.unlink(self._path)

    async def _serve(self, sock: socket.socket, registry: Registry) -> bool:
        """Serve until told to end; False if that was for want of its files."""
        loop = asyncio.get_running_loop()
        pool = registry.pool
        service = Service(self.instance, self._path, registry, lambda: sweep_now(pool), self._retire)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, service.stop)
        acceptor = Acceptor(service, sock)
        housekeeping = Housekeeping(service, pool, lambda: self._what_is_lost(pool))
        gc.freeze()
        log.info("serves instance %r at %s: pid %d, %d names", self.instance, self._path, os.getpid(), len(registry))
        systemd.notify(f"READY=1\nSTATUS=serves instance {self.instance}")
        self._ready.tell(READY)
        await service.ended.wait()
        systemd.notify("STOPPING=1")
        housekeeping.stop()
        acceptor.close()
        for connection in list(service.connections):
            connection.end()
        deadline = loop.time() + _LAST_REPLIES_SECONDS
        while service.connections and loop.time() < deadline:
            await asyncio.sleep(0.01)
        log.info("instance %r is no longer served", self.instance)
        return not service.lost

    def _retire(self, gone: bool) -> None:
        """Give the place up: whoever looks finds no socket, and the next daemon gets the lock."""
        if self._inode is not None:
            with contextlib.suppress(FileNotFoundError):
                found = os.lstat(self._path)
                if (found.st_dev, found.st_ino) == self._inode:
                    os.unlink(self._path)
            self._inode = None
        if gone:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._log_path)
            start_lock = LockFile(runtime_dir.start_lock_path(self.instance))
            if start_lock.try_acquire():  # nobody is starting a daemon: a starter that was killed left the file, if any
                start_lock.release(remove=True)
        self._lock.release(remove=True)


def _silent(instance: str, pid: int | None, server: tuple[int, str] | None) -> str:
    """What to say of a daemon that has the pool and does not answer."""
    if pid is None or server is None:
        return (
            f"another process allocates in the pool of instance {instance!r}, and it is not known which; find it with: "
            f"fuser {shm.FOLDER}{instance_prefix(instance)}.p0"
        )
    if not os.path.exists(server[1]):
        return (
            f"a daemon of instance {instance!r}, pid {pid}, is alive, but its socket {server[1]} does not exist: it "
            "runs in another container or mount namespace, and both need the same XDG_RUNTIME_DIR "
            "(docs/how-to/containers.md), or "
            f"the socket was removed. Then end it: kill -9 {pid} (this loses no mutex)"
        )
    return (
        f"a daemon of instance {instance!r}, pid {pid}, is alive but does not answer; end it: kill -9 {pid} "
        "(this loses no mutex)"
    )


def _raise_descriptor_limit() -> None:
    """A client takes one descriptor and a soft limit of 1024 is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
