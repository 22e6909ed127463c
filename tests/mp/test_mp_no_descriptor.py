"""Large messages where no descriptor is free: none is lost, at either end."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import resource
import socket
import threading
from typing import Any

import pytest
from processes import Child, Line, Worker
from scarce import highest_descriptor, no_descriptor
from support import DEADLINE, Fork, wait_until

from wdkmutex_shm.mp import _descriptor_passing
from wdkmutex_shm.mp.channel import Channel, LostMessage, NotTaken

# Children are forked while other threads run, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

LARGE = b"x" * (1 << 20)


@pytest.fixture
def channel() -> Any:
    made = Channel()
    yield made
    for end in (made.reader, made.writer):
        with contextlib.suppress(OSError):
            end.close()


def _refused(*_: Any) -> Any:
    raise ChildProcessError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def test_messages_are_taken_without_a_descriptor(channel: Any) -> None:
    for message in (LARGE, b"small", LARGE + b"y", b""):
        channel.writer.send_bytes(message)
    with no_descriptor():
        assert channel.reader.take(True) == LARGE
        assert channel.reader.take(True) == b"small"
        assert channel.reader.take(False) == LARGE + b"y"
        assert channel.reader.recv_bytes() == b""
        assert channel.reader.take(False) is None
    channel.writer.send_whole(b"head", LARGE)
    assert channel.reader.take(True) == b"head" + LARGE
    channel.writer.close()
    with no_descriptor(), pytest.raises(EOFError):
        channel.reader.take(True)


def test_the_last_descriptor_is_enough(channel: Any) -> None:
    channel.writer.send_bytes(LARGE)
    with no_descriptor(free=1):
        assert channel.reader.take(True) == LARGE
        os.close(os.dup(0))


def test_large_messages_are_sent_without_a_descriptor(channel: Any) -> None:
    with no_descriptor():
        channel.writer.send_whole(b"head", LARGE)
        channel.writer.send(list(range(100_000)))
        assert channel.reader.take(True) == b"head" + LARGE
        assert channel.reader.recv() == list(range(100_000))
        channel.writer.send_whole(b"head", LARGE)
    assert channel.reader.take(True) == b"head" + LARGE


def test_who_sends_without_a_descriptor_waits_for_room(channel: Any) -> None:
    channel.writer._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
    with no_descriptor():
        sent = 0
        while channel.writer.send_whole(b"", LARGE, wait=False):
            sent += 1
        assert sent > 0
        more = threading.Thread(target=channel.writer.send_whole, args=(b"", b"y" + LARGE))
        more.start()
        for _ in range(sent):
            assert channel.reader.take(True) == LARGE
        assert channel.reader.take(True) == b"y" + LARGE
        more.join(DEADLINE)
        channel.reader.close()
        with pytest.raises(BrokenPipeError):
            channel.writer.send_bytes(LARGE)


def test_what_cannot_be_taken_stays(channel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no process can be had either, the error says so, and what to do."""
    channel.writer.send_bytes(LARGE)
    with no_descriptor(), monkeypatch.context() as patch:
        patch.setattr(_descriptor_passing, "receive", _refused)
        for _ in range(2):
            with pytest.raises(NotTaken, match=r"stays in the queue.*ulimit -n") as raised:
                channel.reader.take(True)
        assert raised.value.errno == errno.EMFILE
        again = NotTaken.__reduce__(raised.value)
        assert str(again[0](*again[1])) == str(raised.value)
    assert channel.reader.take(True) == LARGE


def test_an_item_that_cannot_be_taken_stays_in_its_queue(monkeypatch: pytest.MonkeyPatch, fork: Any) -> None:
    items = fork.JoinableQueue()
    items.put(LARGE)
    wait_until(lambda: items._reader.poll(), "it is sent")
    with no_descriptor(), monkeypatch.context() as patch:
        patch.setattr(_descriptor_passing, "receive", _refused)
        with pytest.raises(OSError, match="stays in the queue"):
            items.get()
        assert items.qsize() == 1
    assert not items._counts.taking
    assert items.get() == LARGE
    items.task_done()
    items.join()


def test_a_pools_large_result_waits_until_it_can_be_taken(fork: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Event()

    def refused(*_: Any) -> Any:
        tried.set()
        _refused()

    with fork.Pool(1) as pool:
        pool.apply(int)
        with monkeypatch.context() as patch:
            patch.setattr(_descriptor_passing, "receive", refused)
            with no_descriptor():
                result = pool.apply_async(bytes, (len(LARGE),))
                assert tried.wait(DEADLINE)
                assert not result.ready()
            assert result.get(DEADLINE) == bytes(len(LARGE))


def test_an_item_put_without_a_descriptor_is_not_lost(fork: Any) -> None:
    items = fork.Queue()
    items.put("starts the thread")
    assert items.get() == "starts the thread"
    with no_descriptor():
        items.put(LARGE)
        assert items.get(timeout=DEADLINE) == LARGE


def test_another_reader_takes_what_was_looked_at(channel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is taken then. A large one for which no descriptor is free any more is lost, and that is said."""
    receive = channel.reader._receive

    def faster(*args: Any) -> Any:
        monkeypatch.setattr(channel.reader, "_receive", receive)
        taken.append(channel.reader.take(False))
        return receive(*args)

    for first, second in ((LARGE, b"small"), (b"small", LARGE), (LARGE, LARGE + b"y")):
        taken: list[bytes] = []
        channel.writer.send_bytes(first)
        channel.writer.send_bytes(second)
        monkeypatch.setattr(channel.reader, "_receive", faster)
        assert (channel.reader.take(True), taken) == (second, [first])
    channel.writer.send_bytes(b"small")
    channel.writer.send_whole(b"head", LARGE)

    def skip_one() -> bytes:
        channel.reader._socket.recv(9)
        return bytes(receive())

    with no_descriptor():
        monkeypatch.setattr(channel.reader, "_receive", skip_one)
        with pytest.raises(LostMessage, match="it is lost.*ulimit -n") as raised:
            channel.reader.take(True)
    assert raised.value.head == b"head"
    monkeypatch.setattr(channel.reader, "_receive", faster)
    channel.writer.send_bytes(LARGE)
    assert channel.reader.take(False) is None
    assert taken[-1] == LARGE


def test_who_sleeps_takes_what_a_killed_reader_had_only_looked_at(channel: Any) -> None:
    """The kernel wakes one reader for each message, and that one is killed before it takes it."""

    def look(line: Line) -> None:
        line.say()
        assert channel.reader._socket.recv(1, socket.MSG_PEEK)
        line.say()
        line.hear(3600)

    with Child(look) as first:
        first.hear()
        with Worker(lambda line: line.say(channel.reader.take(True))) as second:
            channel.writer.send_bytes(b"x")
            first.kill()
            assert second.hear() == b"x"


def test_workers_without_descriptors_among_others(fork: Any) -> None:
    """Readers race for small and large items, and half of them have no descriptor: each item is had once."""
    items, had = fork.SimpleQueue(), fork.SimpleQueue()

    def read(scarce: bool) -> None:
        with no_descriptor() if scarce else contextlib.nullcontext():
            while (item := items.get()) is not None:
                had.put(item if isinstance(item, int) else (item[0], len(item[1])))

    readers = [fork.Process(target=read, args=(bool(n % 2),)) for n in range(4)]
    for reader in readers:
        reader.start()
    sender = threading.Thread(
        target=lambda: (
            [items.put((n, LARGE[: 200_000 + n]) if n % 3 == 0 else n) for n in range(300)]
            + [items.put(None) for _ in readers]
        )
    )
    sender.start()
    found = [had.get() for _ in range(300)]
    for reader in readers:
        reader.join(DEADLINE)
        assert reader.exitcode == 0
    sender.join()
    assert sorted(found, key=lambda one: one if isinstance(one, int) else one[0]) == [
        (n, 200_000 + n) if n % 3 == 0 else n for n in range(300)
    ]


def test_the_child_that_takes_a_message_apart_is_nobodys_to_see(channel: Any) -> None:
    """No SIGCHLD, no zombie, and what it closes stays open here."""
    told: list[int] = []

    def take() -> tuple[bool, list[int], list[str]]:
        import signal

        signal.signal(signal.SIGCHLD, lambda number, _: told.append(number))
        before = sorted(os.listdir("/proc/self/fd"))
        channel.writer.send_bytes(LARGE)
        with no_descriptor():
            whole = channel.reader.take(True) == LARGE
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            told.append(-1)
        return whole and before == sorted(os.listdir("/proc/self/fd")), told, multiprocessing.active_children()

    with Fork(take) as child:
        assert child.result() == (True, [-1], [])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may have no more")
@pytest.mark.parametrize("apart", [False, True])
def test_more_large_messages_under_way_than_a_user_may_have(channel: Any, apart: bool) -> None:
    """Who does not wait is told that there is no room; who waits goes on when one was taken (unix(7))."""

    def send() -> tuple[int, int, bool]:
        limit = highest_descriptor() + 20  # as many may be under way; those that are open here do not count
        channel.writer._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        message, sent, done = LARGE[:200_000], 0, threading.Event()
        waiter = threading.Thread(target=lambda: (channel.writer.send_whole(b"", message), done.set()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        with no_descriptor() if apart else contextlib.nullcontext():
            os.setresuid(61234, 61234, 0)  # nobody else's; root has no limit
            while channel.writer.send_whole(b"", message, wait=False):
                sent += 1
            waiter.start()
            waits = not done.wait(0.05)
            while channel.reader.take(False) is not None:
                pass
            waiter.join(DEADLINE)
            os.setresuid(0, 0, 0)
        return sent, limit, waits and done.is_set()

    with Fork(send) as child:
        sent, limit, waited = child.result()
    assert 0 < sent <= limit + 3
    assert waited
