"""A process's connection to the daemon of an instance: blocking, shared by its threads, never by its children.

Every call has a deadline. A connection that broke is made anew, and a request whose reply was lost is sent again under
its number (see :mod:`wdkmutex_shm.protocol.messages`), so callers see a restart of the daemon only as a delay.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakSet

from ...base.forks import in_child, settle
from ...base.names import check_instance, instance_prefix, pool_segment
from ...base.sockets import Socket
from ...errors import DaemonUnavailable, GrtIsNull, ProtocolError, RuntimeFolderRefused, WdkMutexError
from ...protocol.messages import FRAME_CAP, PROTOCOL, VERBS, decode_reply, encode_request
from ._wire import LATE_REPLY, LATE_UNSENT, LOST, TOO_LONG, Turns, exchange
from .address import sockets_of

__all__ = ["Client", "Reply", "connect", "has_segments"]

_PEER = struct.Struct("3i")
_TRIES = 8
_PAUSE = 0.01

_clients: WeakSet[Client] = WeakSet()


@in_child
def _forget_parent() -> None:
    for client in list(_clients):
        client._forget()


class Reply(NamedTuple):
    """What became of a request.

    Attributes:
        body: the reply's fields, None if it failed.
        error: why it failed, else None.
        doubtful: the request was sent to a daemon that died before it replied. It may have been carried out, and
            an ``error`` that says otherwise may be about its own effect.
    """

    body: dict[str, Any] | None
    error: WdkMutexError | None
    doubtful: bool

    def fields(self) -> dict[str, Any]:
        """The body, or the error raised."""
        try:
            if self.error is not None:
                raise self.error
            return self.body or {}
        finally:
            del self  # else the error would keep this frame, which has the error, until a garbage collection


class _LostError(Exception):
    """No reply came.

    Attributes:
        sent: the daemon can have seen the whole request.
        final: the error to end with; None if the connection broke, and another may do better.
    """

    def __init__(self, sent: bool, final: WdkMutexError | None = None) -> None:
        self.sent = sent
        self.final = final


def has_segments(instance: str) -> bool:
    """Tell whether the pool of an instance exists in shared memory, with or without a daemon."""
    from ...memory import shm

    prefix = instance_prefix(instance)
    return os.path.exists(shm.FOLDER + pool_segment(prefix, 0)) or bool(shm.listing(prefix + ".p"))


def connect(instance: str, *, timeout: float = 10.0) -> Client:
    """Connect to the daemon that serves ``instance``. Never starts one.

    Args:
        instance: name of the instance.
        timeout: seconds, for this and by default for each call.

    Returns:
        A client whose connection stands.

    Raises:
        GrtIsNull: no daemon serves the instance and it has no segments.
        DaemonUnavailable: it has segments, but no daemon answers in time.
        RuntimeFolderRefused: the runtime folder is not safe, or somebody else's socket is in our place.
        ProtocolError: the daemon speaks another version.
    """
    client = Client(instance, timeout=timeout)
    client.open()
    return client


class Client:
    """The connection of one process to the daemon of one instance. All methods may be called from any thread.

    Args:
        instance: name of the instance.
        timeout: seconds that a call may take, unless it says otherwise.
        revive: called with the seconds that are left when there is no daemon but segments of the instance;
            starts a daemon.
        patience: seconds to go on trying when no daemon answers after one had; a daemon that is being restarted is
            back by then.

    Attributes:
        instance: name of the instance.
        path: socket path of the present or last connection.
        daemon: what the daemon said of itself in its hello: ``pid``, ``version``, ``epoch`` (random, one for each
            life of a daemon), ``instance``.
    """

    def __init__(
        self,
        instance: str,
        *,
        timeout: float = 10.0,
        revive: Callable[[float], object] | None = None,
        patience: float = 0.0,
    ) -> None:
        self.instance = check_instance(instance)
        self.timeout = timeout
        self.path = ""
        self.daemon: dict[str, Any] = {}
        self._numbers = itertools.count(1)
        self._revive = revive
        self._patience = patience
        self._forget()
        _clients.add(self)

    def _forget(self) -> None:
        """Begin without a connection. In a forked child: the socket is the parent's, so only our copy is closed."""
        old: Socket | None = getattr(self, "_socket", None)
        self._socket: Socket | None = None
        self._halfway = False
        self._leaving = False
        self._aside: Client | None = None
        self._turns = Turns()
        self._session = int.from_bytes(os.urandom(8), "big")
        if old is not None:
            old.close()

    # --- calls

    def open(self) -> None:
        """Connect now, if there is no connection. Raises as :func:`connect`."""
        self._submit(None, {}, self.timeout).fields()

    def call(self, verb: str, **params: Any) -> dict[str, Any]:
        """Ask the daemon and return the fields of its reply.

        Args:
            verb: one of :data:`wdkmutex_shm.protocol.messages.VERBS`.
            params: the fields of the request.

        Raises:
            WdkMutexError: what the daemon answered with.
            GrtIsNull, DaemonUnavailable, ProtocolError, RuntimeFolderRefused: as :func:`connect`.
        """
        return self.submit(verb, params).fields()

    def submit(self, verb: str, params: dict[str, Any], *, timeout: float | None = None, resend: bool = True) -> Reply:
        """As :meth:`call`, for a caller to whom it matters what is certain. Raises nothing that it can return.

        Args:
            verb: one of :data:`wdkmutex_shm.protocol.messages.VERBS`.
            params: the fields of the request, to which its number is added.
            timeout: seconds; the client's own by default.
            resend: send the request to another daemon than the one that may have carried it out already.
        """
        spec = VERBS.get(verb)
        if spec is not None and "request" in spec.optional:
            params["request"] = next(self._numbers)
        return self._submit(verb, params, self.timeout if timeout is None else timeout, resend)

    def collect(self, verb: str, field: str) -> list[Any]:
        """All items of a verb that replies in pages (``names``, ``list``), as they were when this began.

        Args:
            verb: the verb.
            field: the field of its replies that holds the items.
        """
        for _ in range(_TRIES):
            body = self.call(verb)
            items: list[Any] = list(body[field])
            try:
                while body["next"] is not None:
                    body = self.call(verb, snapshot=body["snapshot"], start=body["next"])
                    items += body[field]
            except ProtocolError:
                continue  # the list went with the connection that it was made for, or with too many newer ones
            return items
        raise self._unavailable("its lists change before they are read, or its connection breaks repeatedly")

    def close(self) -> None:
        """Close the connection. The next call makes another."""
        settle()
        if self._turns.mine():
            self._leaving = True  # a signal handler's wish; the call that it interrupted is still to have its reply
            return
        turn = self._turns.take(-1)
        try:
            self._drop()
        finally:
            if turn is not None:  # pragma: no branch - it is had in the end, for its time has no limit
                turn.end()

    def __del__(self) -> None:
        sock = getattr(self, "_socket", None)
        if sock is not None:
            sock.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- one request

    def _submit(self, verb: str | None, params: dict[str, Any], timeout: float, resend: bool = True) -> Reply:
        settle()
        if self._turns.mine():
            return self._beside()._submit(verb, params, timeout, resend)
        deadline = time.monotonic() + timeout
        turn = self._turns.take(max(timeout, 0.0))
        if turn is None:
            return Reply(None, self._unavailable(f"another thread's call did not end within {timeout:g} s"), False)
        asked: object = None  # the epoch of the first daemon that can have seen the request
        try:
            request = b"" if verb is None else encode_request(verb, params)
            for _ in range(_TRIES):
                self._open(deadline)
                if verb is None:
                    return Reply({}, None, False)
                epoch = self.daemon.get("epoch")
                if asked not in (None, epoch) and not resend:
                    return Reply(None, self._unavailable("it died before it replied"), True)
                try:
                    frame = self._exchange(request, deadline)
                except _LostError as lost:
                    self._drop()  # a reply that comes too late must not be taken for the next one's
                    if lost.sent and asked is None:
                        asked = epoch
                    if lost.final is not None:
                        return Reply(None, lost.final, asked is not None)
                    continue
                asked = epoch if asked is None else asked
                body, error = decode_reply(frame)
                return Reply(body, error, asked != epoch)
            return Reply(None, self._unavailable("its connection breaks repeatedly"), asked is not None)
        except WdkMutexError as error:
            self._drop()
            return Reply(None, error, asked is not None)
        except BaseException:
            self._drop()
            raise
        finally:
            aside, self._aside = self._aside, None
            try:
                if self._leaving:
                    self._leaving = False
                    self._drop()
            finally:
                turn.end()
            del aside  # and with it goes its connection

    def _beside(self) -> Client:
        """The client for calls that a signal handler or a finalizer makes in the midst of a call of its own thread."""
        if self._aside is None:
            self._aside = Client(self.instance, timeout=self.timeout, revive=self._revive, patience=self._patience)
        return self._aside

    def _exchange(self, request: bytes, deadline: float) -> bytes:
        """Send one frame and return the next one of the daemon's."""
        sock = self._socket
        assert sock is not None
        self._halfway = True  # should a signal handler raise from here on, the next reply is not the next call's
        reply = exchange(sock.fileno(), request, int(deadline * 1e9), FRAME_CAP)
        if type(reply) is bytes:
            self._halfway = False
            return reply
        if reply == TOO_LONG:
            raise ProtocolError(f"a reply that is empty, or of more than {FRAME_CAP} bytes, or followed by another")
        late = reply in (LATE_UNSENT, LATE_REPLY)
        raise _LostError(
            sent=reply in (LOST, LATE_REPLY), final=self._unavailable("it does not reply in time") if late else None
        )

    # --- the connection

    def _drop(self) -> None:
        self._halfway = False
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _unavailable(self, why: str) -> DaemonUnavailable:
        return DaemonUnavailable(
            f"the daemon of instance {self.instance!r} is not available: {why}; open mutexes keep working. "
            f"Start it with: wdkmutex-daemon start --instance {self.instance}",
            name=self.instance,
            instance=self.instance,
            path=self.path,
        )

    def _open(self, deadline: float) -> None:
        """See to it that there is a connection, by a new daemon if that is ours to start."""
        if self._halfway or (self._socket is not None and not self._socket.is_here()):
            self._drop()  # another call's reply may come, or this process has closed all descriptors, as daemons do
        if self._socket is not None:
            return
        revivals = _TRIES if self._revive is not None else 0
        until = min(deadline, time.monotonic() + self._patience) if self.daemon else 0.0
        while True:
            for path in sockets_of(self.instance):
                if self._dial(path, deadline):
                    return
            if time.monotonic() >= deadline:
                raise self._unavailable("no socket answered in time")
            if not has_segments(self.instance):
                from ...objects.handles import forget_segments

                forget_segments(instance_prefix(self.instance))
                raise GrtIsNull(
                    f"there is no Grt of instance {self.instance!r}: it was not started or was destroyed; "
                    f"call Grt.init({self.instance!r}) or: wdkmutex-daemon start --instance {self.instance}",
                    name=self.instance,
                    instance=self.instance,
                )
            if self._revive is not None and revivals:
                revivals -= 1  # it may be killed again before we come to it
                self._revive(deadline - time.monotonic())
            elif time.monotonic() >= until:
                raise self._unavailable("none of its sockets answers")
            else:
                time.sleep(_PAUSE)

    def _dial(self, path: str, deadline: float) -> bool:
        """Connect to one path and say hello. Tells whether a daemon of ours answered."""
        self.path = path
        self._socket = self._connected(path, deadline)
        if self._socket is None:
            return False
        hello = encode_request("hello", {"protocol": PROTOCOL, "session": self._session})
        try:
            body, refusal = decode_reply(self._exchange(hello, deadline))
        except _LostError as lost:
            self._drop()
            if lost.final is not None:
                raise lost.final from None
            return False  # it is just ending
        if refusal is not None:
            raise refusal
        self.daemon = body or {}
        return True

    def _connected(self, path: str, deadline: float) -> Socket | None:
        """A socket that is connected to a process of our user, or None if nobody listens there."""
        try:
            sock = Socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:  # no descriptor is free
            raise self._unavailable(f"no socket can be created: {error.strerror}") from None
        try:
            while True:
                left = deadline - time.monotonic()
                sock.settimeout(max(left, 0.001))
                try:
                    sock.connect(path)
                    break
                except BlockingIOError:  # its backlog is full: it lives and will come to us
                    if left <= 0:
                        raise self._unavailable("it accepts no new connections") from None
                    time.sleep(_PAUSE)
            pid, uid, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
            if uid != os.geteuid():
                raise RuntimeFolderRefused(
                    f"{path} is served by uid {uid} (pid {pid}), not by us: refused; end that process and remove the "
                    f"socket: rm {path}",
                    path=path,
                )
        except BaseException as error:
            sock.close()
            if isinstance(error, (FileNotFoundError, NotADirectoryError, ConnectionRefusedError, ConnectionResetError)):
                return None
            if isinstance(error, OSError) and not isinstance(error, WdkMutexError):
                raise self._unavailable(f"{path}: {error.strerror or error}") from None
            raise
        return sock
