"""The channel that the queues and pools of a crash-proof context are made of."""

from __future__ import annotations

import os
import socket

import pytest

from wdkmutex_shm.mp.channel import Channel

# Children are forked while other threads run, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

SIZES = (0, 10, 3_000, 140_000, 1_000_000)


def test_an_end_without_writers() -> None:
    channel = Channel()
    channel.writer.send_bytes(b"last")
    channel.writer.close()
    assert channel.reader.take(True) == b"last"
    with pytest.raises(EOFError):
        channel.reader.take(True)
    channel.reader.close()
    with pytest.raises(OSError, match="closed"):
        channel.reader.take(False)


def test_an_end_without_readers() -> None:
    channel = Channel()
    channel.reader.close()
    for size in SIZES:
        with pytest.raises(BrokenPipeError):
            channel.writer.send_bytes(bytes(size))
    channel.writer.close()


@pytest.mark.parametrize("size", SIZES)
def test_readers_that_went_without_taking_all(size: int) -> None:
    channel = Channel()
    channel.writer.send_bytes(b"nobody takes it")
    channel.reader.close()
    for _ in range(2):
        with pytest.raises(BrokenPipeError):
            channel.writer.send_bytes(bytes(size))
    channel.writer.close()


@pytest.mark.parametrize("size", SIZES)
def test_a_message_that_the_sockets_buffer_can_never_hold(size: int) -> None:
    """As where net.core.wmem_max is small."""
    channel = Channel()
    channel.writer._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least that the kernel gives
    for message in (bytes(size), bytes(100_000)):
        channel.writer.send_bytes(message)
        assert channel.reader.recv_bytes() == message


@pytest.mark.parametrize("size", SIZES)
def test_an_end_that_was_made_non_blocking_loses_nothing_in_silence(size: int) -> None:
    channel = Channel()
    channel.writer._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
    for end in (channel.reader, channel.writer):
        os.set_blocking(end.fileno(), False)
    with pytest.raises(BlockingIOError):
        channel.reader.recv_bytes()
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            channel.writer.send_bytes(bytes(size))
            sent += 1
    for _ in range(sent):
        assert channel.reader.recv_bytes() == bytes(size)
    assert not channel.reader.poll()


def test_a_message_that_nobody_took_leaves_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    channel = Channel()
    for _ in range(5):
        channel.writer.send_bytes(bytes(200_000))
    assert channel.reader.size() > 0
    assert channel.writer.size() > 0
    channel.writer.close()
    channel.reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_connections_have() -> None:
    channel = Channel()
    channel.writer.send({"a": 1})
    assert channel.reader.poll()
    assert channel.reader.recv() == {"a": 1}
    channel.writer.send_bytes(b"12345678")
    with pytest.raises(OSError, match="bad message length"):
        channel.reader.recv_bytes(4)
    with pytest.raises(OSError, match="read-only"):
        Channel().reader.send(1)
    channel.writer.close()
