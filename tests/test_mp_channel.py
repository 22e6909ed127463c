"""The channel that the queues and pools of a crash-proof context are made of."""

from __future__ import annotations

import os

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
