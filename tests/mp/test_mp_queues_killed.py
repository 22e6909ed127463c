"""The queues of a crash-proof context are not stopped by a reader or writer that is killed."""

from __future__ import annotations

import itertools
import os
import pickle
import queue
import random
import struct
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mp_peers import Clock, Peer, asleep, get_all, reserve, take_raw
from processes import Line, wait_until
from support import DEADLINE

from wdkmutex_shm.mp.count_table import FIRST, SENT
from wdkmutex_shm.mp.process_key import me
from wdkmutex_shm.mp.queues import _PUTTER

# Children are forked while other threads run, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

KINDS = ("Queue", "JoinableQueue", "SimpleQueue")


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_that_is_killed_while_it_waits_takes_nothing_along(context: Any, kind: str) -> None:
    items = getattr(context, kind)()
    with Peer(context, get_all, items, 1) as first:
        wait_until(lambda: asleep(first.pid), "it waits")
        first.kill()
    with Peer(context, get_all, items, 2) as second:
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


def _put_and_stay(line: Line, items: Any, count: int) -> None:
    for number in range(count):
        items.put(number)
    line.say("put")
    line.hear(3600)


def test_the_places_of_a_killed_writer_are_free_again(context: Any) -> None:
    items = context.Queue(2)
    with Peer(context, reserve, items, 2) as writer:
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
    with Peer(fork, take_raw, items) as reader:
        reader.hear()
        reader.kill()
    items.put("next", timeout=DEADLINE)
    assert items.get(timeout=DEADLINE) == "next"
    assert items.qsize() == 0


def test_items_that_a_dead_process_had_sent_are_there(fork: Any) -> None:
    items = fork.Queue(3)
    with Peer(fork, _put_and_stay, items, 3) as writer:
        writer.hear()
        wait_until(lambda: items._counts.cell.peek()[FIRST + SENT] == 3, "all are sent")
        writer.kill()
    assert [items.get(timeout=DEADLINE) for _ in range(3)] == [0, 1, 2]
    assert items.qsize() == 0
    for number in range(3):
        items.put(number, timeout=DEADLINE)


def test_a_dead_process_makes_no_more_room_than_there_is(fork: Any) -> None:
    items = fork.Queue(1)
    for _ in range(3):
        with Peer(fork, _send_and_die, items) as producer:
            producer.hear()
            assert items.get(timeout=DEADLINE) == "sent"
            producer.kill()
        items._counts.mend()
    items.put("one")
    with pytest.raises(queue.Full):
        items.put_nowait("two")


def _send_and_die(line: Line, items: Any) -> None:
    assert items._counts.reserve(True, DEADLINE)
    items._writer.send_whole(_PUTTER.pack(me()), pickle.dumps("sent"))
    line.say("sent")
    line.hear(3600)


def test_one_of_several_places_in_a_killed_readers_hands_is_free_again(fork: Any, clock: Clock) -> None:
    items = fork.Queue(2)
    items.put("lost")
    with Peer(fork, take_raw, items) as reader:
        reader.hear()
        items.put("a")
        assert items.full()
        reader.kill()
    assert items.full()  # nobody can know yet: a living process may have it
    assert items.get(timeout=DEADLINE) == "a"
    items.put("b")
    assert items.full()
    assert items.get(timeout=DEADLINE) == "b"
    clock.now += 50
    for item in ("c", "d"):
        items.put_nowait(item)
    with pytest.raises(queue.Full):
        items.put_nowait("e")
    assert [items.get(timeout=DEADLINE), items.get(timeout=DEADLINE)] == ["c", "d"]
    assert items.qsize() == 0


def test_polling_sees_the_room_that_a_dead_process_leaves(fork: Any) -> None:
    items = fork.Queue(1)
    with Peer(fork, reserve, items, 1) as writer:
        writer.hear()
        assert items.full()
        writer.kill()
    assert not items.full()
    items.put_nowait("item")
    with Peer(fork, take_raw, items) as reader:
        reader.hear()
        assert items.full()
        reader.kill()
    wait_until(lambda: not items.full(), "the place of what the dead had taken is free")
