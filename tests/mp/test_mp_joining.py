"""Joining a JoinableQueue of a crash-proof context: no item is waited for in vain, none is forgotten."""

from __future__ import annotations

import contextlib
import pickle
from multiprocessing import queues
from queue import Empty
from typing import Any

import pytest
from mp_peers import Clock, Peer, asleep, join, reserve, take_raw
from processes import Line, in_child, in_thread, wait_until
from support import DEADLINE

from wdkmutex_shm.mp.count_table import FIRST, SENT
from wdkmutex_shm.mp.process_key import me
from wdkmutex_shm.mp.queues import _PUTTER

# Children are forked while other threads run, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def _take_and_stay(line: Line, items: Any) -> None:
    line.say(items.get())
    line.hear(3600)


def test_joining(context: Any) -> None:
    items = context.JoinableQueue()
    items.put(1)
    with Peer(context, join, items) as joiner:
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
    with Peer(fork, _take_and_stay, items) as consumer, Peer(fork, join, items) as joiner:
        consumer.hear()
        joiner.hear()
        assert joiner.silent(0.2)
        consumer.kill()
        assert joiner.hear() == "joined"
    with Peer(fork, reserve, items, 1) as producer:
        producer.hear()
        with Peer(fork, join, items) as joiner:
            joiner.hear()
            assert joiner.silent(0.2)
            producer.kill()
            assert joiner.hear() == "joined"
    items.put("task")
    with Peer(fork, take_raw, items) as consumer:
        consumer.hear()
        consumer.kill()
    with Peer(fork, join, items) as joiner:
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


def _send_without_noting(line: Line, items: Any) -> None:
    assert items._counts.reserve(True, DEADLINE)
    assert items._counts.reserve(True, DEADLINE)
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
        with Peer(fork, join, items) as joiner:
            joiner.hear()
            assert joiner.silent(0.5)
            consumer.say("finish")
            assert consumer.hear() == "done"
            assert joiner.hear() == "joined"


def _stop_with_it(line: Line, items: Any) -> None:
    noted = items._counts.taken

    def taken(party: int, done: list[bool]) -> None:
        line.say("taken")
        line.hear(3600)
        noted(party, done)

    items._counts.taken = taken
    line.say(items.get())
    line.hear(3600)
    items.task_done()


def test_an_item_that_a_slow_process_takes_is_waited_for(fork: Any) -> None:
    items = fork.JoinableQueue()
    items.put("item")
    with Peer(fork, _stop_with_it, items) as consumer, Peer(fork, join, items) as joiner:
        assert consumer.hear() == "taken"
        joiner.hear()
        assert joiner.silent(0.5)
        consumer.say("go on")
        assert consumer.hear() == "item"
        assert joiner.silent(0.2)
        consumer.say("finish")
        assert joiner.hear() == "joined"


def test_what_a_dead_process_had_sent_without_noting_it_is_waited_for_before_it_is_taken(fork: Any) -> None:
    items = fork.JoinableQueue()
    with Peer(fork, _send_without_noting, items) as producer:
        producer.hear()
        producer.kill()
    with Peer(fork, join, items) as joiner:
        joiner.hear()
        assert joiner.silent(0.3)
        assert items.get() == "sent"
        assert joiner.silent(0.2)
        items.task_done()
        assert joiner.hear() == "joined"


def _note(items: Any, raw: bytes) -> None:
    noted: list[bool] = []
    items._counts.taken(_PUTTER.unpack_from(raw)[0], noted)
    assert noted


def _joins(items: Any) -> bool:
    items._counts.mend()
    joined: bool = items._counts.wait_until_done(0)
    return joined


def test_what_is_being_taken_is_waited_for_though_its_sender_died_without_noting_it(fork: Any, clock: Clock) -> None:
    items = fork.JoinableQueue()
    with Peer(fork, _send_without_noting, items) as producer:
        producer.hear()
        producer.kill()
    assert not _joins(items)
    clock.now += 10_000
    assert not _joins(items)
    raw = items._reader.take(True)
    assert not _joins(items)  # the channel is empty, and nobody counts what is being taken
    clock.now += 49
    assert not _joins(items)
    _note(items, raw)
    clock.now += 50
    assert not _joins(items)
    items.task_done()
    clock.now += 50
    assert _joins(items)


def test_what_is_being_taken_is_waited_for_though_another_taker_died(fork: Any, clock: Clock) -> None:
    items = fork.JoinableQueue()
    items.put("item")
    wait_until(lambda: items._counts.cell.peek()[FIRST + SENT] == 1, "it is sent, and noted")
    with Peer(fork, _will_take_one, items) as other:
        other.hear()
        other.kill()
    assert not _joins(items)
    clock.now += 10_000
    raw = items._reader.take(True)
    assert not _joins(items)
    clock.now += 49
    assert not _joins(items)
    _note(items, raw)
    items.task_done()
    assert not _joins(items)  # the dead one may have had an item in its hands, for all that is known
    clock.now += 50
    assert _joins(items)


def _will_take_one(line: Line, items: Any) -> None:
    items._counts.will_take()
    line.say("will")
    line.hear(3600)


def test_a_slow_process_takes_what_was_given_up_for_lost(fork: Any) -> None:
    # One process that takes items dies, another is stopped with an item in its hands, and the channel is empty: that
    # item is taken for the dead one's. It is followed again once the stopped process goes on.
    items = fork.JoinableQueue()
    items.put("item")
    with Peer(fork, _stop_with_it, items) as slow:
        assert slow.hear() == "taken"
        with Peer(fork, _wait_for_one, items) as other:
            wait_until(lambda: asleep(other.pid), "it waits")
            other.kill()
        items._counts.wait_until_done(DEADLINE)
        slow.say("go on")
        assert slow.hear() == "item"
        items.put("next")
        with Peer(fork, join, items) as joiner:
            joiner.hear()
            assert items.get() == "next"
            items.task_done()
            assert joiner.silent(0.2)
            slow.say("finish")
            assert joiner.hear() == "joined"
    with pytest.raises(ValueError, match="called too many times"):
        items.task_done()


def _ends(items: Any, way: str) -> None:
    with contextlib.suppress(Empty):
        items.get(block=False)
    if way == "interrupted":

        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        items._take = interrupted
        with contextlib.suppress(KeyboardInterrupt):
            items.get()


@pytest.mark.parametrize("way", ["in good order", "interrupted"])
def test_a_process_that_has_ended_in_good_order_has_not_died_with_an_item(fork: Any, way: str) -> None:
    """So what a slow one has in its hands is not taken for lost. One that was interrupted may have lost one."""
    items = fork.JoinableQueue()
    items.put("item")
    with Peer(fork, _stop_with_it, items) as slow:
        assert slow.hear() == "taken"
        worker = fork.Process(target=_ends, args=(items, way))
        worker.start()
        worker.join(DEADLINE)
        assert worker.exitcode == 0
        assert items._counts.wait_until_done(0.5) == (way == "interrupted")
        slow.say("go on")
        assert slow.hear() == "item"
        slow.say("finish")
        items._counts.wait_until_done(DEADLINE)


def _wait_for_one(line: Line, items: Any) -> None:
    line.say(items.get())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_cannot_be_pickled_does_not_hold_up_those_before_it(fork: Any, capfd: Any) -> None:
    items = fork.JoinableQueue()
    with items._notempty:  # all at once: the feeder thread finds more to come after each of them
        items._start_thread()
        for item in (1, 2, lambda: 0):
            assert items._counts.reserve(True, None)
            items._buffer.append(item)
        items._notempty.notify()
    with Peer(fork, join, items) as joiner:
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
            assert items._counts.reserve(True, None)
            items._buffer.append(item)
        items._buffer.append(queues._sentinel)  # as closing it does
        items._notempty.notify()
    items._thread.join(DEADLINE)


def test_what_a_process_put_before_it_ended_is_waited_for(fork: Any) -> None:
    items = fork.JoinableQueue()
    assert in_child(_put_and_end, items, 3) is None
    assert items._counts.cell.peek()[FIRST + SENT] == 3
