"""A one-way channel of messages between any number of writers and readers, none of whom needs a lock.

It is a pair of Unix sockets that keep messages apart (SOCK_SEQPACKET): the kernel takes a message in whole and gives it
out whole, to one reader. So a writer that is killed has sent a message or has not, and a reader has taken one or has
not. A message too large for that goes as an anonymous file (memfd) whose descriptor is the message; the kernel removes
it with the last process that has it, also when it lies in the channel at that time.
"""

from __future__ import annotations

import array
import errno
import fcntl
import io
import os
import socket
import struct
import termios
import time
from multiprocessing import connection, reduction
from typing import Any

__all__ = ["Channel", "End", "LostMessage"]

_INLINE = 128 * 1024  # bytes of a message that goes through the socket itself
_WHOLE, _FILE = b"\0", b"\1"
_ANCILLARY = socket.CMSG_SPACE(struct.calcsize("i"))
_BUFFER = 1 << 20  # asked for; the kernel gives what net.core.wmem_max allows


class LostMessage(OSError):
    """A large message is lost, because no descriptor was free to receive it with. Its ``head`` is known."""

    def __init__(self, head: bytes) -> None:
        super().__init__(errno.EMFILE, "no file descriptor was free to receive a large message with: it is lost")
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
        super().__init__(handle, readable, writable)
        self._socket = _Borrowed(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, handle)
        self._socket.settimeout(None)  # whatever socket.setdefaulttimeout() says; the descriptor is everybody's
        self._gives_up = False
        self._spare: list[bytearray] = []  # a buffer to receive into, unless another thread is using it

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
        file = os.memfd_create("wdkmutex message", os.MFD_CLOEXEC)
        try:
            _write_all(file, head)
            _write_all(file, body)
            os.lseek(file, 0, os.SEEK_SET)
            _send_file(self._socket, head, file, flags)
        finally:
            os.close(file)

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
            EOFError: there is none, and all writers have gone. LostMessage: it is lost, no descriptor was free.
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
        try:
            buffer = self._spare.pop()
        except IndexError:
            buffer = bytearray(_INLINE + 1)
        try:
            length, ancillary, _, _ = self._socket.recvmsg_into((buffer,), _ANCILLARY, flags | socket.MSG_CMSG_CLOEXEC)
            whole = length > 0 and buffer[0] == _WHOLE[0]
            inline = bytes(memoryview(buffer)[1:length])
        except BlockingIOError:
            if not (self._gives_up or flags & socket.MSG_DONTWAIT):
                raise  # somebody made the end non-blocking
            return None
        finally:
            self._spare = [buffer]
        if whole:
            return inline
        if not length:
            raise EOFError
        if not ancillary:
            raise LostMessage(inline)
        files = array.array("i")
        files.frombytes(ancillary[0][2][: files.itemsize])
        with os.fdopen(files[0], "rb", buffering=0) as file:
            return file.readall()

    def size(self) -> int:
        """How much lies in the channel and was not taken yet; 0 when there is no message.

        It is in bytes at the reading end. The writing end counts the memory that they take, in which a message that is
        just being taken is included (unix(7), SIOCINQ and SIOCOUTQ).
        """
        counted = fcntl.ioctl(self.fileno(), termios.FIONREAD if self.readable else termios.TIOCOUTQ, bytes(4))
        return int(struct.unpack("i", counted)[0])


def _write_all(file: int, message: Any) -> None:
    view = memoryview(message)
    done = 0
    while done < len(view):
        done += os.write(file, view[done:])


def _send_file(sock: socket.socket, head: bytes, file: int, flags: int) -> None:
    """Send a descriptor; wait while as many are under way as this user may have open (unix(7), ETOOMANYREFS)."""
    while True:
        try:
            # Not socket.send_fds(), which does not pass its flags on.
            sock.sendmsg([_FILE, head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))], flags)
            return
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:
                raise
            if flags & socket.MSG_DONTWAIT:
                raise BlockingIOError(errno.EAGAIN, "too many large messages are under way") from None
        time.sleep(0.001)


class Channel:
    """Both ends. ``reader`` and ``writer`` are handed to children as connections are."""

    def __init__(self) -> None:
        reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        writing.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self.reader = End(reading.detach(), writable=False)
        self.writer = End(writing.detach(), readable=False)


def _reduce(end: End) -> tuple[Any, ...]:
    return _rebuild, (reduction.DupFd(end.fileno()), end.readable, end.writable)


def _rebuild(descriptor: Any, readable: bool, writable: bool) -> End:
    return End(descriptor.detach(), readable, writable)


reduction.register(End, _reduce)
