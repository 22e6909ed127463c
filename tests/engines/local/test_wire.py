"""One request and its reply over a socket, and how the daemon waits for the next one."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import DEADLINE
from wdkmutex_daemon.serve.busy_poll import BusyPollSelector

from wdkmutex_shm.engines.local._wire import LATE_REPLY, LATE_UNSENT, LOST, TOO_LONG, UNSENT, exchange

CAP = 1 << 20


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def deadline(seconds: float = DEADLINE) -> int:
    return time.monotonic_ns() + int(seconds * 1e9)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(DEADLINE)
    with ours, theirs:
        yield ours, theirs


def read_frame(sock: socket.socket) -> bytes:
    def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = sock.recv(count - len(data))
            assert more, "the stream ended"
            data += more
        return data

    return exactly(int.from_bytes(exactly(4), "big"))


class Peer(threading.Thread):
    """Does something at the other end of the pair; what it raises is raised when the ``with`` is left."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error

    def __enter__(self) -> Peer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.join(DEADLINE)
        assert not self.is_alive()
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize("size", [1, 100, 4091, 4092, 4093, 100_000, CAP])
@pytest.mark.parametrize("pieces", [1, 3, 1000])
def test_a_request_and_its_reply(size: int, pieces: int, pair: Any) -> None:
    """Larger than the socket holds, and in pieces that end anywhere."""
    ours, theirs = pair
    sent, back = os.urandom(size), os.urandom(size)
    stream = framed(back)

    def answer() -> None:
        assert read_frame(theirs) == sent
        step = -(-len(stream) // pieces)
        for start in range(0, len(stream), step):
            theirs.sendall(stream[start : start + step])

    with Peer(answer):
        assert exchange(ours.fileno(), framed(sent), deadline(), CAP) == back


def test_many_in_a_row(pair: Any) -> None:
    ours, theirs = pair

    def answer() -> None:
        for _ in range(2000):
            theirs.sendall(framed(read_frame(theirs)))

    with Peer(answer):
        for number in range(2000):
            body = b"%d" % number
            assert exchange(ours.fileno(), framed(body), deadline(), CAP) == body


@pytest.mark.parametrize(
    "reply", [bytes(4), b"\xff" * 8, (CAP + 1).to_bytes(4, "big"), framed(b"one") + framed(b"two"), framed(b"x") + b"y"]
)
def test_what_is_no_reply(reply: bytes, pair: Any) -> None:
    ours, theirs = pair
    theirs.sendall(reply)
    assert exchange(ours.fileno(), framed(b"ask"), deadline(), CAP) == TOO_LONG


@pytest.mark.parametrize("reply", [b"", b"\0", framed(b"reply")[:-1], framed(b"r" * 100_000)[:-1]])
def test_a_connection_that_breaks(reply: bytes, pair: Any) -> None:
    ours, theirs = pair

    def hang_up() -> None:
        read_frame(theirs)
        theirs.sendall(reply)
        theirs.close()

    with Peer(hang_up):
        assert exchange(ours.fileno(), framed(b"ask"), deadline(), CAP) == LOST


def test_a_connection_that_was_broken(pair: Any) -> None:
    ours, theirs = pair
    theirs.close()
    assert exchange(ours.fileno(), framed(b"ask"), deadline(), CAP) == UNSENT
    assert exchange(-1, framed(b"ask"), deadline(), CAP) == UNSENT


@pytest.mark.parametrize("reply", [b"", b"\0", framed(b"reply")[:-1]])
def test_a_reply_that_does_not_come_in_time(reply: bytes, pair: Any) -> None:
    ours, theirs = pair
    theirs.sendall(reply)
    assert exchange(ours.fileno(), framed(b"ask"), deadline(0.05), CAP) == LATE_REPLY
    assert exchange(ours.fileno(), framed(b"ask"), deadline(-1), CAP) == LATE_REPLY


def test_a_request_that_is_not_read_in_time(pair: Any) -> None:
    ours, _ = pair
    assert exchange(ours.fileno(), framed(bytes(CAP)), deadline(0.05), CAP) == LATE_UNSENT


class InterruptError(Exception):
    pass


@pytest.fixture
def interval() -> Iterator[list[int]]:
    """A signal arrives every millisecond; the fixture counts them."""
    seen: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        yield seen
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_signals_change_no_deadline(interval: list[int], pair: Any) -> None:
    ours, _ = pair
    assert exchange(ours.fileno(), framed(b"ask"), deadline(0.1), CAP) == LATE_REPLY
    assert interval
    assert exchange(ours.fileno(), framed(bytes(CAP)), deadline(0.1), CAP) == LATE_UNSENT


def test_signals_break_no_reply(interval: list[int], pair: Any) -> None:
    ours, theirs = pair

    def answer() -> None:
        read_frame(theirs)
        while len(interval) < 20:
            time.sleep(0.001)
        theirs.sendall(framed(b"reply"))

    with Peer(answer):
        assert exchange(ours.fileno(), framed(b"ask"), deadline(), CAP) == b"reply"


def test_a_signal_handler_may_end_the_wait(pair: Any) -> None:
    def interrupt(*_: object) -> None:
        raise InterruptError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for request in (b"ask", bytes(CAP)):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(InterruptError):
                exchange(pair[0].fileno(), framed(request), deadline(), CAP)
    finally:
        signal.signal(signal.SIGALRM, before)


# --- the daemon's side


def test_the_selector_finds_what_is_there(pair: Any) -> None:
    ours, theirs = pair
    with BusyPollSelector() as selector:
        selector.register(ours, selectors.EVENT_READ)
        assert selector.select(0) == []
        assert selector.select(0.001) == []
        for _ in range(100):  # one right after the other
            theirs.send(b"x")
            assert [key.fileobj for key, _ in selector.select(None)] == [ours]
            ours.recv(1)
        for _ in range(20):  # nothing comes: neither now nor when it has become lazy
            assert selector.select(0.0005) == []
        assert selector.select(-1) == []
        theirs.send(b"x")
        assert [key.fileobj for key, _ in selector.select(None)] == [ours]


def test_the_selector_wakes_up_for_what_comes(pair: Any) -> None:
    ours, theirs = pair

    def answer() -> None:
        for _ in range(200):
            theirs.sendall(theirs.recv(1))

    with BusyPollSelector() as selector, Peer(answer):
        selector.register(ours, selectors.EVENT_READ)
        for _ in range(200):
            ours.send(b"x")
            assert selector.select(DEADLINE)
            ours.recv(1)
