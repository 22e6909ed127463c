"""A channel's ends: closed, the wrong one; messages that come whole."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import pytest

from wdkmutex_shm.mp.channel import Channel

LARGE = b"x" * (1 << 20)


@pytest.fixture
def channel() -> Any:
    made = Channel()
    yield made
    for end in (made.reader, made.writer):
        with contextlib.suppress(OSError):
            end.close()


def test_ends_go_one_way(channel: Any) -> None:
    with pytest.raises(OSError, match="read-only"):
        channel.reader.send("x")
    with pytest.raises(OSError, match="write-only"):
        channel.writer.take(False)


def test_closed_ends(channel: Any) -> None:
    channel.writer.close()
    with pytest.raises(OSError, match="closed"):
        channel.writer.send("x")
    with pytest.raises(EOFError):
        channel.reader.take(True)
    channel.reader.close()
    with pytest.raises(OSError, match="closed"):
        channel.reader.take(False)


def test_nobody_reads_any_more(channel: Any) -> None:
    channel.reader.close()
    for message in (b"x", LARGE):
        with pytest.raises(BrokenPipeError):
            channel.writer.send_bytes(message)


@pytest.mark.parametrize("message", [b"", b"abc", LARGE])
def test_messages_come_whole(channel: Any, message: bytes) -> None:
    assert channel.reader.take(False) is None
    assert channel.writer.send_whole(b"head", message)
    assert channel.reader.size() > 0
    assert channel.reader.take(True) == b"head" + message
    assert channel.reader.size() == 0
    assert channel.writer.size() == 0


def test_a_full_channel_takes_what_it_can(channel: Any) -> None:
    channel.writer._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
    for message in (b"x" * 1000, LARGE):
        sent = 0
        while channel.writer.send_whole(b"", message, wait=False):
            sent += 1
        assert sent > 0
        while channel.reader.take(False) is not None:
            sent -= 1
        assert sent == 0


def test_a_message_longer_than_is_allowed(channel: Any) -> None:
    channel.writer.send_bytes(b"abcdef")
    with pytest.raises(OSError):
        channel.reader.recv_bytes(3)
