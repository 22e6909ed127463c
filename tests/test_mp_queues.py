"""The queues of a crash-proof context: as multiprocessing's, not stopped by a reader or writer that is killed."""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import queue
import random
import signal
import socket
import struct
import threading
import zlib
from collections import Counter
from multiprocessing import queues
from pathlib import Path
from typing import Any

import pytest
from procs import Child, Line, in_child, in_thread, wait_until
from support import DEADLINE
from test_mp_locks import METHODS, Peer, asleep

from wdkmutex_shm import IrqlTooHigh, mp
from wdkmutex_shm.mp.channel import Channel
from wdkmutex_shm.mp.ledger import _FIRST, _SENT, _WIDTH
from wdkmutex_shm.mp.parties import me
from wdkmutex_shm.mp.queues import _PUTTER

# Children are forked while other threads run, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

SIZES = (0, 10, 3_000, 140_000, 1_000_000)
KINDS = ("Queue", "JoinableQueue", "SimpleQueue")


@pytest.fixture(params=METHODS)
def context(request: pytest.FixtureRequest) -> Any:
    return mp.get_context(request.param)


@pytest.fixture
def fork() -> Any:
    return mp.get_context("fork")


def _put(line: Line, items: Any, *what: Any) -> None:
    for one in what:
        items.put(one)
    if hasattr(items, "join_thread"):
        items.close()
        items.join_thread()
    line.say("put")
    line.hear(3600)


def _get(line: Line, items: Any, count: int) -> None:
    for _ in range(count):
        line.say(items.get())
    line.hear(3600)


@pytest.mark.parametrize("kind", KINDS)
def test_items_of_all_sizes_come_whole_and_in_order(context: Any, kind: str) -> None:
    items = getattr(context, kind)()
    what = [bytes([n % 251]) * size for n, size in enumerate(SIZES * 2)]
    with Peer(context, _put, items, *what):
        assert [items.get() for _ in what] == what
    assert items.empty()


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_that_is_killed_while_it_waits_takes_nothing_along(context: Any, kind: str) -> None:
    items = getattr(context, kind)()
    with Peer(context, _get, items, 1) as first:
        wait_until(lambda: asleep(first.pid), "it waits")
        first.kill()
    with Peer(context, _get, items, 2) as second:
        items.put("one")
        assert second.hear() == "one"
        items.put("two")
        assert second.hear() == "two"


def _numbered(writer: int, number: int) -> bytes:
    body = bytes([number % 256]) * random.choice((5, 500, 20_000, 150_000))
    return struct.pack("=III", writer, number, zlib.crc32(body)) + body


def _write_for_ever(line: Line, items: Any, writer: int) -> None:
    line.say("begun")
    for number in itertools.count():
        items.put(_numbered(writer, number))


def _read_for_ever(line: Line, items: Any, path: str) -> None:
    line.say("begun")
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        item = items.get()
        writer, number, checksum = struct.unpack_from("=III", item)
        assert zlib.crc32(item[12:]) == checksum
        os.write(file, struct.pack("=II", writer, number))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_goes_on_through_a_storm_of_kills(fork: Any, kind: str, tmp_path: Path) -> None:
    items = fork.SimpleQueue() if kind == "SimpleQueue" else getattr(fork, kind)(20)
    log = tmp_path / "taken"
    log.touch()
    dice = random.Random(7)
    writers = {n: Peer(fork, _write_for_ever, items, n) for n in range(3)}
    readers = [Peer(fork, _read_for_ever, items, str(log)) for _ in range(3)]
    numbers, killed_readers = itertools.count(3), 0
    try:
        for child in (*writers.values(), *readers):
            child.hear()
        for _ in range(16):
            before = log.stat().st_size
            wait_until(lambda before=before: log.stat().st_size > before + 8 * dice.randrange(1, 30), "items come")
            if dice.random() < 0.5:
                victim = dice.choice(list(writers))
                with writers.pop(victim) as child:
                    child.kill()
                number = next(numbers)
                writers[number] = Peer(fork, _write_for_ever, items, number)
            else:
                with readers.pop(dice.randrange(3)) as child:
                    child.kill()
                killed_readers += 1
                readers.append(Peer(fork, _read_for_ever, items, str(log)))
        before = log.stat().st_size
        wait_until(lambda: log.stat().st_size > before + 800, "items come to the end")
    finally:
        for child in (*writers.values(), *readers):
            with child:
                child.kill()
    taken = list(struct.iter_unpack("=II", log.read_bytes()))
    assert not [item for item, count in Counter(taken).items() if count > 1]
    lost = 0
    for writer in {writer for writer, _ in taken}:
        seen = sorted(number for who, number in taken if who == writer)
        lost += seen[-1] + 1 - len(seen)
    assert lost <= killed_readers + 3  # one in the hands of each reader that was killed, those at the end too


def _take_raw(line: Line, items: Any) -> None:
    items._ledger.will_take()
    items._reader.take(True)  # taken, and not yet noted
    line.say("taken")
    line.hear(3600)


def _put_and_stay(line: Line, items: Any, count: int) -> None:
    for number in range(count):
        items.put(number)
    line.say("put")
    line.hear(3600)


def _reserve(line: Line, items: Any, count: int) -> None:
    for _ in range(count):
        assert items._ledger.reserve(True, DEADLINE)  # in the buffer, and not yet sent
    line.say("reserved")
    line.hear(3600)


def test_the_places_of_a_killed_writer_are_free_again(context: Any) -> None:
    items = context.Queue(2)
    with Peer(context, _reserve, items, 2) as writer:
        writer.hear()
        with pytest.raises(queue.Full):
            items.put("x", timeout=0.01)
        writer.kill()
    items.put("a", timeout=DEADLINE)
    items.put_nowait("b")
    assert items.full()
    assert items.qsize() == 2
    with pytest.raises(queue.Full):
        items.put_nowait("c")
    assert [items.get(timeout=DEADLINE), items.get(timeout=DEADLINE)] == ["a", "b"]


def test_the_place_of_an_item_in_a_killed_readers_hands_is_free_again(fork: Any) -> None:
    items = fork.Queue(1)
    items.put("lost")
    with Peer(fork, _take_raw, items) as reader:
        reader.hear()
        reader.kill()
    items.put("next", timeout=DEADLINE)
    assert items.get(timeout=DEADLINE) == "next"
    assert items.qsize() == 0


def test_items_that_a_dead_process_had_sent_are_there(fork: Any) -> None:
    items = fork.Queue(3)
    with Peer(fork, _put_and_stay, items, 3) as writer:
        writer.hear()
        wait_until(lambda: items._ledger.cell.peek()[_FIRST + _SENT] == 3, "all are sent")
        writer.kill()
    assert [items.get(timeout=DEADLINE) for _ in range(3)] == [0, 1, 2]
    assert items.qsize() == 0
    for number in range(3):
        items.put(number, timeout=DEADLINE)


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


def _take_and_stay(line: Line, items: Any) -> None:
    line.say(items.get())
    line.hear(3600)


def _join(line: Line, items: Any) -> None:
    line.say("joining")
    items.join()
    line.say("joined")


def test_joining(context: Any) -> None:
    items = context.JoinableQueue()
    items.put(1)
    with Peer(context, _join, items) as joiner:
        assert joiner.hear() == "joining"
        assert items.get() == 1
        assert joiner.silent(0.2)
        items.task_done()
        assert joiner.hear() == "joined"
    with pytest.raises(ValueError, match="called too many times"):
        items.task_done()


def test_joining_does_not_wait_for_the_dead(fork: Any) -> None:
    items = fork.JoinableQueue()
    items.put("task")
    with Peer(fork, _take_and_stay, items) as consumer, Peer(fork, _join, items) as joiner:
        consumer.hear()
        joiner.hear()
        assert joiner.silent(0.2)
        consumer.kill()
        assert joiner.hear() == "joined"
    with Peer(fork, _reserve, items, 1) as producer:
        producer.hear()
        with Peer(fork, _join, items) as joiner:
            joiner.hear()
            assert joiner.silent(0.2)
            producer.kill()
            assert joiner.hear() == "joined"
    items.put("task")
    with Peer(fork, _take_raw, items) as consumer:
        consumer.hear()
        consumer.kill()
    with Peer(fork, _join, items) as joiner:
        joiner.hear()
        assert joiner.hear() == "joined"


def test_tasks_are_done_by_whomever(fork: Any) -> None:
    items = fork.JoinableQueue()
    for number in range(3):
        items.put(number)
    assert items.get() == 0
    assert in_child(_done, items) is None
    in_thread(items.task_done)  # before it is taken
    assert items.get() == 1
    assert items.get() == 2
    items.task_done()
    items.join()
    with pytest.raises(ValueError, match="called too many times"):
        items.task_done()


def _done(items: Any) -> None:
    items.task_done()


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


def test_a_queue_in_a_process_pool_executor() -> None:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(2, mp_context=mp.get_context("spawn")) as executor:
        assert list(executor.map(abs, range(-20, 0))) == list(range(20, 0, -1))


def test_a_child_that_inherited_a_queue_has_a_buffer_of_its_own(fork: Any) -> None:
    items = fork.Queue()
    items.put("parent")
    with Child(_put, items, "child") as child:
        assert child.hear() == "put"
        assert sorted([items.get(timeout=DEADLINE), items.get(timeout=DEADLINE)]) == ["child", "parent"]


def _send_without_noting(line: Line, items: Any) -> None:
    assert items._ledger.reserve(True, DEADLINE)
    assert items._ledger.reserve(True, DEADLINE)
    items._writer.send_whole(_PUTTER.pack(me()), pickle.dumps("sent"))
    line.say("sent")
    line.hear(3600)


def _work(line: Line, items: Any) -> None:
    line.say(items.get())
    line.hear(3600)
    items.task_done()
    line.say("done")


def test_an_item_that_a_dead_process_had_sent_without_noting_it_is_waited_for(fork: Any) -> None:
    items = fork.JoinableQueue()
    with Peer(fork, _work, items) as consumer, Peer(fork, _send_without_noting, items) as producer:
        producer.hear()
        assert consumer.hear() == "sent"
        producer.kill()
        with Peer(fork, _join, items) as joiner:
            joiner.hear()
            assert joiner.silent(0.5)
            consumer.say("finish")
            assert consumer.hear() == "done"
            assert joiner.hear() == "joined"


def test_a_dead_process_makes_no_more_room_than_there_is(fork: Any) -> None:
    items = fork.Queue(1)
    for _ in range(3):
        with Peer(fork, _send_and_die, items) as producer:
            producer.hear()
            assert items.get(timeout=DEADLINE) == "sent"
            producer.kill()
        items._ledger.mend()
    items.put("one")
    with pytest.raises(queue.Full):
        items.put_nowait("two")


def _send_and_die(line: Line, items: Any) -> None:
    assert items._ledger.reserve(True, DEADLINE)
    items._writer.send_whole(_PUTTER.pack(me()), pickle.dumps("sent"))
    line.say("sent")
    line.hear(3600)


def _stop_with_it(line: Line, items: Any) -> None:
    noted = items._ledger.taken

    def taken(party: int) -> None:
        line.say("taken")
        line.hear(3600)
        noted(party)

    items._ledger.taken = taken
    line.say(items.get())
    line.hear(3600)
    items.task_done()


def test_an_item_that_a_slow_process_takes_is_waited_for(fork: Any) -> None:
    items = fork.JoinableQueue()
    items.put("item")
    with Peer(fork, _stop_with_it, items) as consumer, Peer(fork, _join, items) as joiner:
        assert consumer.hear() == "taken"
        joiner.hear()
        assert joiner.silent(0.5)
        consumer.say("go on")
        assert consumer.hear() == "item"
        assert joiner.silent(0.2)
        consumer.say("finish")
        assert joiner.hear() == "joined"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_cannot_be_pickled_does_not_hold_up_those_before_it(fork: Any, capfd: Any) -> None:
    items = fork.JoinableQueue()
    with items._notempty:  # all at once: the feeder thread finds more to come after each of them
        items._start_thread()
        for item in (1, 2, lambda: 0):
            assert items._ledger.reserve(True, None)
            items._buffer.append(item)
        items._notempty.notify()
    with Peer(fork, _join, items) as joiner:
        joiner.hear()
        for number in (1, 2):
            assert items.get(timeout=DEADLINE) == number
            assert joiner.silent(0.2)
            items.task_done()
        assert joiner.hear() == "joined"
    assert "pickle" in capfd.readouterr().err


def _put_and_end(items: Any, count: int) -> None:
    with items._notempty:
        items._start_thread()
        for item in range(count):
            assert items._ledger.reserve(True, None)
            items._buffer.append(item)
        items._buffer.append(queues._sentinel)  # as closing it does
        items._notempty.notify()
    items._thread.join(DEADLINE)


def test_what_a_process_put_before_it_ended_is_waited_for(fork: Any) -> None:
    items = fork.JoinableQueue()
    assert in_child(_put_and_end, items, 3) is None
    assert items._ledger.cell.peek()[_FIRST + _SENT] == 3


def test_polling_sees_the_room_that_a_dead_process_leaves(fork: Any) -> None:
    items = fork.Queue(1)
    with Peer(fork, _reserve, items, 1) as writer:
        writer.hear()
        assert items.full()
        writer.kill()
    assert not items.full()
    items.put_nowait("item")
    with Peer(fork, _take_raw, items) as reader:
        reader.hear()
        assert items.full()
        reader.kill()
    wait_until(lambda: not items.full(), "the place of what the dead had taken is free")


def test_the_books_do_not_grow_with_each_process(fork: Any) -> None:
    items = fork.Queue(2)
    for number in range(5):
        items.put(number)
        assert in_child(_get_one, items) == number
    assert len(items._ledger.cell.peek()) <= _FIRST + 3 * _WIDTH


def _get_one(items: Any) -> Any:
    return items.get(timeout=DEADLINE)


def test_the_default_timeout_of_sockets_is_not_that_of_queues(fork: Any) -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.05)
    try:
        items = fork.SimpleQueue()
        with Peer(fork, _get, items, 1) as reader:
            wait_until(lambda: asleep(reader.pid), "it waits")
            assert reader.silent(0.3)
            items.put("item")
            assert reader.hear() == "item"
        assert os.get_blocking(items._reader.fileno())
    finally:
        socket.setdefaulttimeout(before)
