"""The books of a queue: whatever dies, fails or is closed, no count of theirs stays for ever."""

from __future__ import annotations

import os
import pickle
import threading
from queue import Empty
from typing import Any

import pytest
from mp_peers import Alarm, Clock, Peer, reserve, take_raw
from processes import Line, in_child, wait_until
from support import DEADLINE

from wdkmutex_shm.core import _core
from wdkmutex_shm.mp import count_table, process_key
from wdkmutex_shm.mp.channel import End
from wdkmutex_shm.mp.count_table import FIRST, SENT, WIDTH
from wdkmutex_shm.mp.process_key import me
from wdkmutex_shm.mp.queues import _PUTTER

# Children are forked while other threads run, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def _put_and_end(items: Any, *what: Any) -> None:
    for one in what:
        items.put(one)
    items.close()
    items.join_thread()


def _take_and_die(fork: Any, items: Any) -> None:
    with Peer(fork, take_raw, items) as reader:
        reader.hear()
        reader.kill()


def _joins(items: Any) -> bool:
    joined: bool = items._counts.wait_until_done(DEADLINE)
    return joined


def _joins_now(items: Any) -> bool:
    items._counts.mend()
    joined: bool = items._counts.wait_until_done(0)
    return joined


def _wait_until_sent(items: Any, count: int = 1) -> None:
    wait_until(lambda: items._counts.cell.peek()[FIRST + SENT] == count, "it is sent, and noted")


def test_an_item_whose_sender_and_taker_are_dead_is_not_waited_for(fork: Any) -> None:
    items = fork.JoinableQueue()
    assert in_child(_put_and_end, items, "lost") is None
    _take_and_die(fork, items)
    assert _joins(items)


def test_polling_sees_the_room_of_an_item_whose_sender_and_taker_are_dead(fork: Any, clock: Clock) -> None:
    items = fork.Queue(1)
    assert in_child(_put_and_end, items, "lost") is None
    _take_and_die(fork, items)
    for _ in range(5):  # at 0, 10, ..., 40 ms: looking more often than every 50 ms does not put it off
        assert items.full()
        clock.now += 10
    assert not items.full()


def test_a_process_of_another_time_namespace_that_is_ahead_has_looked_first(fork: Any, clock: Clock) -> None:
    items = fork.Queue(1)
    assert in_child(_put_and_end, items, "lost") is None
    _take_and_die(fork, items)
    clock.now += 1_000_000
    assert items.full()
    clock.now -= 1_000_000
    assert items.full()
    clock.now += 50
    assert not items.full()


def test_looking_again_commits_nothing(fork: Any, clock: Clock) -> None:
    """Each commit wakes everybody who waits."""
    items = fork.JoinableQueue()
    assert in_child(_put_and_end, items, "lost") is None
    _take_and_die(fork, items)
    items._counts.mend()
    commits = _core.commits(items._counts.cell.mutex)
    for _ in range(3):
        clock.now += 10
        items._counts.mend()
    assert _core.commits(items._counts.cell.mutex) == commits


def test_the_dead_are_struck_off_though_others_commit_all_the_time(fork: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    items = fork.JoinableQueue()
    with Peer(fork, reserve, items, 1) as writer:
        writer.hear()
        writer.kill()

    def is_dead(party: int) -> bool:
        items._counts.reserve_now()
        items._counts.release()
        return process_key.is_dead(party)

    monkeypatch.setattr(count_table, "is_dead", is_dead)
    items._counts.mend()
    assert items.qsize() == 0


def test_who_has_closed_the_queue_joins_it(fork: Any) -> None:
    items = fork.JoinableQueue()
    items.put("lost")
    with Peer(fork, take_raw, items) as reader:
        reader.hear()
        items.close()
        items.join_thread()
        assert items._reader.closed
        reader.kill()
    assert _joins(items)


def test_who_has_closed_the_queue_keeps_nobody_waiting_for_a_reader(fork: Any) -> None:
    items = fork.JoinableQueue()
    items.put("item")
    assert items.get() == "item"
    with End(os.dup(items._writer.fileno()), readable=False) as anothers:
        assert anothers.size() == 0
        items.close()
        items.join_thread()
        with pytest.raises(BrokenPipeError):
            anothers.send_whole(b"", b"message")
    items.task_done()
    items.join()


def test_who_has_closed_the_queue_does_not_keep_others_from_settling_its_books(fork: Any, clock: Clock) -> None:
    items = fork.JoinableQueue()
    items.put("lost")
    _wait_until_sent(items)
    _take_and_die(fork, items)
    items._counts.mend()
    clock.now += 50
    assert in_child(_mend_blindly, items) is None
    assert _joins_now(items)


def _mend_blindly(items: Any) -> None:
    items._reader.close()
    items._counts.mend()


def _get_and_stay(line: Line, items: Any) -> None:
    line.say(items.get())
    line.hear(3600)


def test_what_was_done_before_it_was_taken_is_not_counted_off_twice(fork: Any) -> None:
    items = fork.JoinableQueue()
    for number in range(2):
        items.put(number)
        items.task_done()
        if number == 0:  # taken, and its taker dies; the second one's sender dies with it
            with Peer(fork, _get_and_stay, items) as consumer:
                assert consumer.hear() == 0
                consumer.kill()
        else:
            _take_and_die(fork, items)
        assert _joins(items)
        items.put("next")
        assert items.get(timeout=DEADLINE) == "next"
        assert not _joins_now(items)
        items.task_done()
        assert _joins(items)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_was_done_and_cannot_be_sent_is_not_counted_off_twice(fork: Any, capfd: Any) -> None:
    items = fork.JoinableQueue()
    assert items._counts.reserve(True, None)
    items.task_done()
    items._counts.release()
    items.put("next")
    assert items.get(timeout=DEADLINE) == "next"
    assert not _joins_now(items)


def test_what_is_done_is_not_waited_for_though_nobody_has_taken_it(fork: Any) -> None:
    items = fork.JoinableQueue()
    items.put("not followed")
    _wait_until_sent(items)
    items.task_done()
    assert _joins(items)
    assert items.get() == "not followed"
    assert _joins(items)


def test_an_item_that_is_lost_where_get_is_interrupted_is_not_waited_for(
    fork: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = fork.JoinableQueue()
    items.put("lost")

    def take(wait: bool) -> bytes:
        assert End.take(items._reader, True)
        raise Alarm

    monkeypatch.setattr(items._reader, "take", take)
    with pytest.raises(Alarm):
        items.get()
    assert _joins(items)
    assert not items._counts.taking


def test_qsize_does_not_count_what_died(fork: Any) -> None:
    items = fork.Queue(3)
    items.put("lost")
    with Peer(fork, reserve, items, 1) as writer:
        writer.hear()
        assert items.qsize() == 2
        _take_and_die(fork, items)
        writer.kill()
    wait_until(lambda: items.qsize() == 0, "nothing is counted")


def test_the_books_do_not_grow_with_each_process_that_is_killed(fork: Any) -> None:
    items = fork.JoinableQueue()
    for _ in range(4):
        with Peer(fork, reserve, items, 1) as writer:
            writer.hear()
            writer.kill()
    assert len(items._counts.cell.peek()) <= FIRST + WIDTH


@pytest.mark.parametrize("when", ["the thread starts", "the item is in the buffer"])
def test_an_interrupted_put_leaves_no_count(fork: Any, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    items = fork.JoinableQueue(1)

    def fail(*_: Any) -> None:
        raise Alarm

    with monkeypatch.context() as patch:
        if when == "the thread starts":
            patch.setattr(items, "_start_thread", fail)
        else:
            items._start_thread()
            patch.setattr(items._notempty, "notify", fail)
        with pytest.raises(Alarm):
            items.put("first")
    assert items._counts.reserve_now() is (True if when == "the thread starts" else None)
    if when == "the thread starts":
        items._counts.release()
        assert _joins(items)
    else:
        with items._notempty:
            items._notempty.notify()
        assert items.get(timeout=DEADLINE) == "first"


def _send_on_word(line: Line, items: Any) -> None:
    assert items._counts.reserve(True, None)
    line.say("reserved")
    line.hear(3600)
    items._writer.send_whole(_PUTTER.pack(me()), pickle.dumps("sent"))
    line.say("sent")
    line.hear(3600)


def _will_take_one(line: Line, items: Any) -> None:
    items._counts.will_take()
    line.say("will")
    line.hear(3600)


def test_who_is_stopped_before_it_notes_what_it_sent_holds_up_nobody(fork: Any) -> None:
    items = fork.JoinableQueue()
    with Peer(fork, _send_on_word, items) as writer:
        writer.hear()
        with Peer(fork, _will_take_one, items) as reader:
            reader.hear()
            reader.kill()
        writer.say("send")
        writer.hear()
        items.get()
        assert not _joins_now(items)
        items.task_done()
        assert _joins(items)


def test_a_death_that_is_found_later_is_waited_for_anew(fork: Any, clock: Clock) -> None:
    items = fork.JoinableQueue()
    items._counts.will_take()
    with Peer(fork, _send_on_word, items) as writer:
        writer.hear()
        with Peer(fork, _will_take_one, items) as reader:
            reader.hear()
            reader.kill()
        items._counts.mend()
        clock.now += 50
        writer.say("send")
        writer.hear()
        raw = items._reader.take(True)  # just now, and not noted yet
        writer.kill()
    assert not _joins_now(items)
    items._counts.taken(_PUTTER.unpack_from(raw)[0], [])
    items.task_done()
    assert not _joins_now(items)
    clock.now += 50
    assert _joins_now(items)


def test_what_is_noted_late_does_not_stand_for_an_item_that_cannot_be_sent(fork: Any, clock: Clock) -> None:
    items = fork.JoinableQueue()
    items.put("late")
    _wait_until_sent(items)
    with Peer(fork, _will_take_one, items) as reader:
        reader.hear()
        reader.kill()
    raw = items._reader.take(True)
    items._counts.mend()
    clock.now += 50
    items._counts.mend()  # it is taken for the dead one's
    assert items._counts.reserve(True, None)
    items._counts.taken(_PUTTER.unpack_from(raw)[0], [])
    items._counts.release()
    items.task_done()
    assert items._counts.reserve(True, None)
    clock.now += 50
    assert not _joins_now(items)
    assert items._counts.count() == 1


def _take_nothing(items: Any) -> None:
    with pytest.raises(Empty):
        items.get(block=False)
    assert not items._counts.taking


def test_a_forked_process_has_none_of_the_items_of_its_parents_threads(fork: Any) -> None:
    items = fork.JoinableQueue()
    thread = threading.Thread(target=items.get)
    thread.start()
    try:
        wait_until(lambda: items._counts.taking, "it is about to wait")
        assert in_child(_take_nothing, items) is None
    finally:
        items.put("end")
        thread.join(DEADLINE)


@pytest.mark.parametrize("waits", [False, True])
def test_a_put_that_is_interrupted_once_its_place_is_had_gives_it_back(
    fork: Any, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    items = fork.Queue(1)
    books = items._counts
    real = books.reserve_now
    calls: list[bool] = []

    def reserve_now(had: list[bool] | None) -> bool | None:
        calls.append(True)
        if waits and len(calls) == 1:
            return None  # as if there were no room yet
        assert real(had)
        raise Alarm

    monkeypatch.setattr(books, "reserve_now", reserve_now)
    with pytest.raises(Alarm):
        items.put("item")
    monkeypatch.undo()
    assert items.qsize() == 0
    items.put_nowait("next")
    assert items.get(timeout=DEADLINE) == "next"
