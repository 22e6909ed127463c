"""What systemd wants of a service, without its library: readiness (sd_notify(3)) and sockets (sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket

from wdkmutex_shm.errors import DaemonError

__all__ = ["listening_socket", "notify"]

_FIRST_FD = 3


def notify(state: str) -> bool:
    """Tell the service manager, if one asked to be told.

    Args:
        state: lines such as ``READY=1``.

    Returns:
        Whether it was told. What goes wrong is not an error of ours.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    if address[0] == "@":
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(address)
            sock.sendall(state.encode())
    except OSError:
        return False
    return True


def listening_socket() -> socket.socket | None:
    """The socket that systemd listens on for us, or None when we were not started for one.

    Raises:
        DaemonError: it is not one listening Unix stream socket.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = os.environ.get("LISTEN_FDS", "")
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(variable, None)  # they are not meant for our children
    if count != "1":
        raise DaemonError(f"systemd passed {count or 'no'} sockets; the unit must have one ListenStream=")
    sock = socket.socket(fileno=_FIRST_FD)
    os.set_inheritable(_FIRST_FD, False)
    listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM or not listening:
        sock.close()
        raise DaemonError(
            "systemd passed a descriptor that is not a listening Unix stream socket; see ListenStream= of the unit"
        )
    return sock
