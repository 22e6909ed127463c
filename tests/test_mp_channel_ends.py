"""A channel's ends: closed, the wrong one, without a descriptor to receive a large message with."""

from __future__ import annotations

import contextlib
import os
import resource
from typing import Any

import pytest
from procs import Worker
from support import Fork

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


def test_no_descriptor_to_receive_a_large_message_with(channel: Any) -> None:
    """It is lost, and that is said; the next one comes."""

    def receive() -> tuple[str, bytes]:
        channel.writer.send_bytes(LARGE)
        channel.writer.send_bytes(b"next")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
        kept = []
        with contextlib.suppress(OSError):
            while True:
                kept.append(os.dup(2))
        try:
            channel.reader.take(True)
            said = ""
        except OSError as error:
            said = str(error)
        for fd in kept:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return said, channel.reader.take(True)

    with Fork(receive) as child:
        said, following = child.result()
    assert "it is lost" in said
    assert following == b"next"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may have no more")
def test_more_large_messages_under_way_than_a_user_may_have(channel: Any) -> None:
    """Who does not wait is told that there is no room; who waits goes on when one was taken (unix(7))."""

    def send() -> tuple[int, bool]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
        os.setresuid(61234, 61234, 0)  # nobody else's; root has no limit
        sent = 0
        while channel.writer.send_whole(b"", LARGE, wait=False):
            sent += 1
        with Worker(lambda line: line.say(channel.writer.send_whole(b"", LARGE))) as worker:
            assert worker.silent(0.05)
            while channel.reader.take(False) is not None:
                pass
            then = worker.hear()
        os.setresuid(0, 0, 0)
        return sent, then

    with Fork(send) as child:
        sent, then = child.result()
    assert 0 < sent <= 61
    assert then is True
