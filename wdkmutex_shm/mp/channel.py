"""A one-way channel of messages between any number of writers and readers, none of whom needs a lock.

It is a pair of Unix sockets that keep messages apart (SOCK_SEQPACKET): the kernel takes a message in whole and gives it
out whole, to one reader. So a writer that is killed has sent a message or has not, and a reader has taken one or has
not. A message too large for that goes as an anonymous file (memfd) whose descriptor is the message; the kernel removes
it with the last process that has it, also when it lies in the channel at that time.

A descriptor for which there is no room where it is received is lost (unix(7)). So a reader looks at a message before it
takes it: it has the descriptor by that, or it takes the message apart, see `_descriptor_passing.pyx`. A reader that is
killed between the two leaves the message where it is, and another one that sleeps is not woken for it: hence each of
them looks again once a second.
"""

from __future__ import annotations

import array
import errno
import fcntl
import io
import os
import select
import socket
import struct
import termios
import time
from collections.abc import Callable
from multiprocessing import connection, reduction
from typing import Any

from ..base._os import File, above
from ..memory import shm
from . import _descriptor_passing

__all__ = ["Channel", "End", "LostMessage", "NotTaken"]

_INLINE = 128 * 1024  # bytes of a message that goes through the socket itself
_WHOLE, _FILE = b"\0", b"\1"
_MARK = 8  # random bytes behind _FILE, by which a message that was looked at is known again
_SHORT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_ANCILLARY = socket.CMSG_SPACE(struct.calcsize("i"))
_LOOK_AGAIN = struct.pack("ll", 1, 0)  # seconds and microseconds that a reader sleeps at most
_BUFFER = 1 << 20  # asked for; the kernel gives what net.core.wmem_max allows


class NotTaken(OSError):
    """A large message cannot be taken now. It stays where it is."""

    def __init__(self, why: OSError) -> None:
        super().__init__(
            errno.EMFILE,
            "no file descriptor is free to receive a large message, and no helper process can be started "
            f"({why.strerror}): it stays in the queue. Close files, or raise the limit (ulimit -n, LimitNOFILE=)",
        )
        self.why = why

    def __reduce__(self) -> tuple[Any, ...]:
        return NotTaken, (self.why,)


class LostMessage(OSError):
    """A large message is lost. Its ``head`` is known.

    It takes three things at one time: another reader took the message that was looked at, the next one is a large one,
    and another thread opened the last file that this process may open. Or there is no memory for it.
    """

    def __init__(self, head: bytes) -> None:
        super().__init__(
            errno.EMFILE,
            "no file descriptor (or no memory) was available to receive a large message: it is lost. Raise the limits "
            "(ulimit -n and -v, LimitNOFILE=)",
        )
        self.head = head

    def __reduce__(self) -> tuple[Any, ...]:
        return LostMessage, (self.head,)


class _Borrowed(socket.socket):
    """The calls of a socket, for a descriptor that an :class:`End` owns and closes."""

    def __del__(self) -> None:
        pass


class End(connection.Connection):
    """One end of a channel: a connection of multiprocessing, which ``multiprocessing.connection.wait`` takes."""

    _handle: int | None
    _readable: bool
    _writable: bool

    def __init__(self, handle: int, readable: bool = True, writable: bool = True) -> None:
        handle = above(handle)
        self._file = File(handle)
        super().__init__(handle, readable, writable)
        self._socket = _Borrowed(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, handle)
        self._socket.settimeout(None)  # whatever socket.setdefaulttimeout() says; the descriptor is everybody's
        self._gives_up = False
        self._spare: list[bytearray] = []  # a buffer to receive into, unless another thread is using it
        self._short = False  # no descriptor was free when one was wanted last

    def _close(self) -> None:
        self._file.close()

    def _check_here(self) -> None:
        if not self._file.is_here():
            raise OSError(
                errno.EBADF,
                "this process has closed the descriptor of the queue, as daemons close all of theirs (os.closerange); "
                "become a daemon first and make the queue then",
            )

    def _send_bytes(self, message: Any) -> None:
        self.send_whole(b"", message)

    def send_whole(self, head: bytes, body: Any, wait: bool = True) -> bool:
        """Send a message of two parts of bytes. Returns False if there is no room and the caller does not ``wait``.

        The head is short: a part of a large message that goes through the socket as well, see :class:`LostMessage`.

        Raises:
            BrokenPipeError: all readers have gone. OSError: the end is closed, or cannot be written to.
        """
        if self._handle is None or not self._writable:
            self._check_closed()  # type: ignore[attr-defined]
            self._check_writable()  # type: ignore[attr-defined]
        self._check_here()
        flags = 0 if wait else socket.MSG_DONTWAIT
        try:
            if len(head) + len(body) > _INLINE or not self._send_inline(head, body, flags):
                self._send_as_file(head, body, flags)
            return True
        except BlockingIOError:
            if wait:
                raise  # somebody made the end non-blocking: it was not sent
            return False
        except ConnectionResetError:  # what the kernel says first when they left messages behind
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from None

    def _send_inline(self, head: bytes, body: Any, flags: int) -> bool:
        """Send a message through the socket itself. Returns False if the socket's buffer can never hold it."""
        try:
            self._socket.send(b"".join((_WHOLE, head, body)), flags)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            return False
        return True

    def _send_as_file(self, head: bytes, body: Any, flags: int) -> None:
        label = _FILE + os.urandom(_MARK) + head
        try:
            file = _anonymous_file()
        except OSError as error:
            if error.errno not in _SHORT_OF_DESCRIPTORS:
                raise
            self._send_apart(label, head, body, flags)
            return
        try:
            _write_all(file, head)
            _write_all(file, body)
            os.lseek(file, 0, os.SEEK_SET)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))]
            # Not socket.send_fds(), which does not pass its flags on.
            self._while_too_many(lambda: self._socket.sendmsg([label], rights, flags), flags)
        finally:
            os.close(file)

    def _send_apart(self, label: bytes, head: bytes, body: Any, flags: int) -> None:
        """Send a large message without a free descriptor."""
        while True:
            try:
                self._while_too_many(lambda: _descriptor_passing.send(self.fileno(), label, head, body), flags)
                return
            except BlockingIOError:
                if flags & socket.MSG_DONTWAIT or not os.get_blocking(self.fileno()):
                    raise
            room = select.poll()  # not select(), which ends at descriptor 1023
            room.register(self.fileno(), select.POLLOUT)
            room.poll()

    @staticmethod
    def _while_too_many(send: Callable[[], object], flags: int) -> None:
        """Send; wait while as many descriptors are under way as this user may have open (unix(7), ETOOMANYREFS)."""
        while True:
            try:
                send()
                return
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:
                    raise
                if flags & socket.MSG_DONTWAIT:
                    raise BlockingIOError(errno.EAGAIN, "too many large messages are in transit") from None
            time.sleep(0.001)

    def _recv_bytes(self, maxlength: int | None = None) -> io.BytesIO | None:
        message = self._take(0)
        assert message is not None
        if maxlength is not None and len(message) > maxlength:
            return None
        buffer = io.BytesIO()
        buffer.write(message)
        return buffer

    def take(self, wait: bool) -> bytes | None:
        """Take a message; None if there is none and the caller does not ``wait``, or has waited long enough.

        Raises:
            EOFError: there is none, and all writers have gone.
            NotTaken: no descriptor is free, and there is no other way; it stays in the channel. LostMessage: see there.
        """
        if self._handle is None or not self._readable:
            self._check_closed()  # type: ignore[attr-defined]
            self._check_readable()  # type: ignore[attr-defined]
        return self._take(0 if wait else socket.MSG_DONTWAIT)

    def give_up_after(self, seconds: float) -> None:
        """Let ``take()`` wait no longer than that, and return None then. For an end that only this process reads."""
        self._gives_up = True
        limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)

    def _take(self, flags: int) -> bytes | None:
        self._check_here()
        message: bytes | None = None
        while message is None:  # else another reader was faster
            try:
                kind = self._socket.recv(1, flags | socket.MSG_PEEK)
            except BlockingIOError:
                if self._gives_up or flags & socket.MSG_DONTWAIT:
                    return None
                if not os.get_blocking(self.fileno()):
                    raise  # somebody made the end non-blocking
                continue  # it has waited for a second, see Channel
            if not kind:
                raise EOFError
            try:
                message = self._receive() if kind == _WHOLE and not self._short else self._receive_carefully()
            except BlockingIOError:
                continue
        return message

    def _receive(self, known: bytes = b"", file: int = -1) -> bytes:
        """Receive a message that is there. ``file`` is that of the one whose mark is ``known``."""
        try:
            buffer = self._spare.pop()
        except IndexError:
            buffer = bytearray(_INLINE + 1)
        try:
            length, ancillary, _, _ = self._socket.recvmsg_into(
                (buffer,), _ANCILLARY, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
            whole = length > 0 and buffer[0] == _WHOLE[0]
            inline = bytes(memoryview(buffer)[1:length])
        finally:
            self._spare = [buffer]
        if whole:
            return inline
        if not length:
            raise EOFError
        if ancillary:
            with _first_of(ancillary) as received:
                return received.readall()
        if inline[:_MARK] != known:
            raise LostMessage(inline[_MARK:])
        with os.fdopen(file, "rb", buffering=0, closefd=False) as looked_at:
            return looked_at.readall()

    def _receive_carefully(self) -> bytes:
        """Receive a message that is there, and may be a large one: once there is a descriptor for it, or apart."""
        if self._short:
            try:
                os.close(os.dup(self.fileno()))
            except OSError:
                return self._receive_apart()
            self._short = False
        looked, ancillary, _, _ = self._socket.recvmsg(
            1 + _MARK, _ANCILLARY, socket.MSG_PEEK | socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        )
        if ancillary:
            with _first_of(ancillary) as file:
                return self._receive(looked[1:], file.fileno())
        if looked[:1] != _FILE:
            return self._receive()
        self._short = True
        return self._receive_apart()

    def _receive_apart(self) -> bytes:
        try:
            inline, message = _descriptor_passing.receive(self.fileno(), _INLINE + 1)
        except ChildProcessError as error:
            raise NotTaken(error) from None
        if not inline:
            raise EOFError
        if inline[:1] == _WHOLE:
            return inline[1:]
        if message is None:
            raise LostMessage(inline[1 + _MARK :])
        return message

    def size(self) -> int:
        """How much lies in the channel and was not taken yet; 0 when there is no message.

        It is in bytes at the reading end. The writing end counts the memory that they take, in which a message that is
        just being taken is included (unix(7), SIOCINQ and SIOCOUTQ).
        """
        self._check_here()
        counted = fcntl.ioctl(self.fileno(), termios.FIONREAD if self.readable else termios.TIOCOUTQ, bytes(4))
        return int(struct.unpack("i", counted)[0])


def _write_all(file: int, message: Any) -> None:
    view = memoryview(message)
    done = 0
    while done < len(view):
        try:
            done += os.write(file, view[done:])
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise OSError(
                    error.errno,
                    f"a message of {len(view)} bytes needs a file in memory of that size: raise the limit of the size "
                    "of files (ulimit -f, LimitFSIZE=)",
                ) from None
            raise


def _anonymous_file() -> int:
    """A file in memory, without a name. Where the kernel has, or allows, no memfd_create(2), it lies in /dev/shm."""
    try:
        return above(os.memfd_create("wdkmutex message", os.MFD_CLOEXEC))
    except OSError as error:
        if error.errno in _SHORT_OF_DESCRIPTORS:
            raise
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        return above(os.open(shm.FOLDER, os.O_TMPFILE | flags, 0o600))
    except OSError as error:
        if error.errno in _SHORT_OF_DESCRIPTORS:
            raise
    path = f"{shm.FOLDER}/wdkm-message-{os.urandom(8).hex()}"
    file = os.open(path, os.O_CREAT | os.O_EXCL | flags, 0o600)
    os.unlink(path)
    return above(file)


def _first_of(ancillary: list[tuple[int, int, bytes]]) -> io.FileIO:
    """The file whose descriptor came with a message."""
    files = array.array("i")
    files.frombytes(ancillary[0][2][: files.itemsize])
    return io.FileIO(above(files[0]), "rb")


class Channel:
    """Both ends. ``reader`` and ``writer`` are handed to children as connections are."""

    def __init__(self) -> None:
        reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        writing.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        reading.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _LOOK_AGAIN)
        self.reader = End(reading.detach(), writable=False)
        self.writer = End(writing.detach(), readable=False)


def _reduce(end: End) -> tuple[Any, ...]:
    return _rebuild, (reduction.DupFd(end.fileno()), end.readable, end.writable)


def _rebuild(descriptor: Any, readable: bool, writable: bool) -> End:
    return End(descriptor.detach(), readable, writable)


reduction.register(End, _reduce)
