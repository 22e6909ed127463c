"""The queues of a crash-proof context: as those of multiprocessing."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import socket
import threading
from typing import Any

import pytest
from mp_peers import Peer, asleep, get_all, put_all
from processes import Child, Line, in_child, wait_until
from support import DEADLINE

from wdkmutex_shm import IrqlTooHigh
from wdkmutex_shm.mp.count_table import FIRST, WIDTH

# Children are forked while other threads run, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

SIZES = (0, 10, 3_000, 140_000, 1_000_000)
KINDS = ("Queue", "JoinableQueue", "SimpleQueue")


@pytest.mark.parametrize("kind", KINDS)
def test_items_of_all_sizes_come_whole_and_in_order(context: Any, kind: str) -> None:
    items = getattr(context, kind)()
    what = [bytes([n % 251]) * size for n, size in enumerate(SIZES * 2)]
    with Peer(context, put_all, items, *what):
        assert [items.get() for _ in what] == what
    assert items.empty()


def test_timeouts(context: Any) -> None:
    items = context.Queue(1)
    for get in (
        items.get_nowait,
        lambda: items.get(False),
        lambda: items.get(timeout=0.01),
        lambda: items.get(True, -1),
    ):
        with pytest.raises(queue.Empty):
            get()
    items.put(1)
    for put in (lambda: items.put_nowait(2), lambda: items.put(2, False), lambda: items.put(2, True, 0.01)):
        with pytest.raises(queue.Full):
            put()
    assert items.get(timeout=DEADLINE) == 1
    items.close()
    items.join_thread()
    with pytest.raises(ValueError, match="is closed"):
        items.put(1)
    with pytest.raises(ValueError, match="is closed"):
        items.get()


def _interrupted(line: Line, items: Any) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        items.get()
    except KeyboardInterrupt:
        line.say("interrupted")
    line.say(items.get())


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_ends_waiting_and_loses_nothing(fork: Any, kind: str) -> None:
    items = getattr(fork, kind)()
    with Peer(fork, _interrupted, items) as child:
        wait_until(lambda: asleep(child.pid), "it waits")
        child.signal(signal.SIGINT)
        assert child.hear() == "interrupted"
        items.put("item")
        assert child.hear() == "item"


@pytest.mark.parametrize("maxsize", [0, 2])
@pytest.mark.parametrize("before", [True, False])
def test_ctrl_c_while_it_is_written_down_loses_nothing(fork: Any, before: bool, maxsize: int, monkeypatch: Any) -> None:
    items = fork.Queue(maxsize)
    items.put("first")
    items.put("second")
    noted = items._counts.taken

    def interrupted(*args: Any) -> None:
        if not before:
            noted(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(items._counts, "taken", interrupted)
    with pytest.raises(KeyboardInterrupt):
        items.get()
    monkeypatch.undo()
    assert items.qsize() == (2 if before else 1)
    assert in_child(_get_one, items) == "second"  # a child is not given what its parent has taken
    assert not items.empty()
    assert items.get() == "first"
    assert items.empty()
    assert items.qsize() == 0


def test_an_event_loop_is_not_blocked(fork: Any) -> None:
    bounded, free, simple = fork.Queue(1), fork.Queue(), fork.SimpleQueue()

    async def main() -> None:
        for blocks in (bounded.get, lambda: bounded.put(1), free.get, simple.get):
            with pytest.raises(IrqlTooHigh):
                blocks()
        bounded.put_nowait("bounded")
        free.put("free")
        simple.put("simple")
        with pytest.raises(queue.Full):
            bounded.put_nowait(1)
        assert await asyncio.to_thread(bounded.get) == "bounded"

    asyncio.run(main())
    assert (free.get(), simple.get()) == ("free", "simple")


def test_threads_share_a_reader(fork: Any) -> None:
    items = fork.SimpleQueue()
    got: list[bytes] = []
    threads = [threading.Thread(target=lambda: got.extend(items.get() for _ in range(50))) for _ in range(4)]
    for thread in threads:
        thread.start()
    sent = [os.urandom(20) + bytes(1000 * (n % 7)) for n in range(200)]
    for item in sent:
        items.put(item)
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert sorted(got) == sorted(sent)


def test_a_child_that_inherited_a_queue_has_a_buffer_of_its_own(fork: Any) -> None:
    items = fork.Queue()
    items.put("parent")
    with Child(put_all, items, "child") as child:
        assert child.hear() == "put"
        assert sorted([items.get(timeout=DEADLINE), items.get(timeout=DEADLINE)]) == ["child", "parent"]


def test_the_books_do_not_grow_with_each_process(fork: Any) -> None:
    items = fork.Queue(2)
    for number in range(5):
        items.put(number)
        assert in_child(_get_one, items) == number
    assert len(items._counts.cell.peek()) <= FIRST + 3 * WIDTH


def _get_one(items: Any) -> Any:
    return items.get(timeout=DEADLINE)


def test_the_default_timeout_of_sockets_is_not_that_of_queues(fork: Any) -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.05)
    try:
        items = fork.SimpleQueue()
        with Peer(fork, get_all, items, 1) as reader:
            wait_until(lambda: asleep(reader.pid), "it waits")
            assert reader.silent(0.3)
            items.put("item")
            assert reader.hear() == "item"
        assert os.get_blocking(items._reader.fileno())
    finally:
        socket.setdefaulttimeout(before)
