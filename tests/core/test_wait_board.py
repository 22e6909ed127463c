"""The board that says who waits: its records, and that it may be missing, damaged, removed, or another user's."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from kinds import acquire
from processes import Child, held_by_child, in_child, write_shm
from support import wait_until
from wait_board import HEADER, RECORD, raw_record, wait_for_lock, waiting

from wdkmutex_shm import (
    CriticalSection,
    FastMutex,
    KMutex,
    LockTimeout,
    Waiter,
)
from wdkmutex_shm.core import _core
from wdkmutex_shm.memory import (
    shm,
)
from wdkmutex_shm.observe import (
    waiters,
)
from wdkmutex_shm.pool import (
    sweep,
)


def test_short_waits_write_nothing() -> None:
    code = (
        "from wdkmutex_shm import FastMutex\n"
        "m = FastMutex(0)\n"
        "for _ in range(1000): m.fetch_add(1)\n"
        "assert m.try_lock().value == 1000\n"
        "assert '@waits' not in open('/proc/self/maps').read()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_place_of_a_killed_waiter_is_taken_again() -> None:
    mutex = FastMutex(0)
    with held_by_child(mutex) as holder:
        with Child(wait_for_lock, mutex) as child:
            child.hear()
            waiting(mutex)
            child.kill()
            (left,) = [record for record in _core.wait_records() if record.pid == child.pid]
        # As if this thread's places were all taken by the dead.
        board = _core.wait_board_path()[len(shm.FOLDER) :]
        raw = raw_record(left.number)
        me = threading.get_native_id()
        for step in range(64):
            write_shm(board, HEADER + (me + step) % _core.BOARD_RECORDS * RECORD, raw)
        with pytest.raises(LockTimeout) as caught:
            mutex.lock(0.05)
        assert caught.value.waiters == 0
        (taken,) = {(me + step) % _core.BOARD_RECORDS for step in range(64)} - {
            record.number for record in _core.wait_records() if record.pid == child.pid
        }
        assert taken == me % _core.BOARD_RECORDS
        for step in range(64):
            write_shm(board, HEADER + (me + step) % _core.BOARD_RECORDS * RECORD, bytes(RECORD))
        holder.say("release")


def test_the_record_of_a_wait_of_another_kind() -> None:
    mutex = CriticalSection()
    since = time.monotonic_ns() - 5_000_000_000
    tickets = [_core.begin_wait(mutex, kind, since) for kind in (_core.WAIT_ANY, _core.WAIT_VALUE, _core.WAIT_TASK)]
    assert all(tickets)
    try:
        assert {waiter.how for waiter in mutex.waiters()} == {"any", "value", "task"}
        assert all(5 <= waiter.waited < 30 for waiter in mutex.waiters())
        # They are no deadlock: this thread is not blocked by any of them.
        assert _core.wait_record_by(os.getpid(), threading.get_native_id()) is None

        def leaves_nothing() -> int:
            for ticket in tickets:
                _core.end_wait(ticket)
            return len(mutex.waiters())

        assert in_child(leaves_nothing) == 3, "a child cannot remove its parent's records"
    finally:
        for ticket in tickets:
            _core.end_wait(ticket)
            _core.end_wait(ticket)
    assert mutex.waiters() == ()
    _core.end_wait(0)


def test_many_waits_of_one_thread() -> None:
    mutexes = [FastMutex(0) for _ in range(300)]
    tickets = [_core.begin_wait(mutex, _core.WAIT_TASK, time.monotonic_ns()) for mutex in mutexes]
    assert [len(mutex.waiters()) for mutex in mutexes] == [1] * 300
    for ticket in tickets:
        _core.end_wait(ticket)
    assert not any(mutex.waiters() for mutex in mutexes)


def _waits_without_room(mutex: Any) -> tuple[str, tuple[Waiter, ...]]:
    import resource

    _core.close_wait_board()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # no descriptor, hence no board
    seen = []
    thread = threading.Timer(0.02, lambda: seen.append(mutex.waiters()))
    thread.start()
    try:
        mutex.lock(0.06)
    except LockTimeout as error:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        thread.join()
        return f"{error.waiters}", seen[0]
    raise AssertionError("had")


def test_without_a_board_locks_work() -> None:
    mutex = FastMutex(0)
    with held_by_child(mutex) as holder:
        mutex.waiters()
        assert in_child(_waits_without_room, mutex) == ("0", ())
        holder.say("release")


def test_damaged_bytes_are_harmless() -> None:
    random_bytes = random.Random(7)
    mutex = KMutex(0)
    hold = acquire(mutex)
    with Child(wait_for_lock, mutex) as child:
        child.hear()
        waiting(mutex)
        board = _core.wait_board_path()[len(shm.FOLDER) :]
        whole = [raw_record(number) for number in range(_core.BOARD_RECORDS)]
        try:
            for round_ in range(40):
                for number in range(_core.BOARD_RECORDS):
                    raw = bytearray(random_bytes.randbytes(RECORD))
                    if round_ % 2:
                        raw[:32] = whole[number][:32]
                        raw[8] |= 1
                    if round_ % 4 == 3:
                        raw[56 : 56 + 6] = b"/wdkm."
                    write_shm(board, HEADER + number * RECORD, bytes(raw))
                mutex.waiters()
                waiters.all_waits()
                with pytest.raises(LockTimeout):
                    in_thread_with_timeout(mutex)
        finally:
            for number in range(_core.BOARD_RECORDS):
                write_shm(board, HEADER + number * RECORD, bytes(RECORD))
        hold.release()
        assert child.hear() == "had"
        child.say("release")
        child.end()
    with acquire(mutex):
        pass


def in_thread_with_timeout(mutex: Any) -> None:
    failure: list[BaseException] = []

    def work() -> None:
        try:
            mutex.lock(0.003)
        except LockTimeout as error:
            failure.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    raise failure[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give a file to another user")
def test_a_board_of_another_user_is_refused() -> None:
    mutex = FastMutex(0)
    with held_by_child(mutex) as holder:
        assert in_child(_with_a_board_of_another, mutex)
        holder.say("release")


def _with_a_board_of_another(mutex: Any) -> bool:
    """In a process of another user, for whom somebody else has put a board in place."""
    os.seteuid(54321)
    path = _core.wait_board_path()
    os.seteuid(0)
    with open(path, "wb") as file:
        file.truncate(HEADER + _core.BOARD_RECORDS * RECORD)
    os.chmod(path, 0o666)
    try:
        os.seteuid(54321)
        with pytest.raises(LockTimeout) as caught:
            mutex.lock(0.03)
        assert caught.value.waiters == 0
        assert mutex.waiters() == ()
        assert sweep.unused_boards() == []
        with open("/proc/self/maps") as maps:
            assert "@waits" not in "".join(line for line in maps if path in line)
    finally:
        os.seteuid(0)
        os.unlink(path)
    return True


def test_a_removed_board_is_made_anew() -> None:
    mutex = FastMutex(0)
    with held_by_child(mutex) as holder, Child(wait_for_lock, mutex) as child:
        child.hear()
        waiting(mutex)
        os.unlink(_core.wait_board_path())
        assert mutex.waiters() == ()
        (waiter,) = waiting(mutex)  # it writes itself down again, on the new one
        assert waiter.pid == child.pid
        holder.say("release")
        assert child.hear() == "had"
        assert mutex.waiters() == ()


def test_an_unused_board_is_swept_and_one_in_use_is_not() -> None:
    code = (
        "import os, sys\n"
        "from wdkmutex_shm import KMutex, LockTimeout\n"
        "from wdkmutex_shm.core import _core\n"
        "from wdkmutex_shm.pool import sweep\n"
        "import threading\n"
        "m = KMutex(0)\n"
        "def wait():\n"
        "    try: m.lock(0.02)\n"
        "    except LockTimeout: pass\n"
        "with m.lock():\n"
        "    t = threading.Thread(target=wait); t.start(); t.join()\n"
        "assert os.path.exists(_core.wait_board_path())\n"
        "assert sweep.unused_boards() == []\n"
        "if sys.argv[1] == 'exit': os._exit(0)\n"
    )
    for how in ("exit", "end"):
        _core.close_wait_board()
        subprocess.run([sys.executable, "-c", code, how], check=True)
        if how == "exit":
            wait_until(lambda: sweep.unused_boards() is not None and not os.path.exists(_core.wait_board_path()))
        else:
            wait_until(lambda: not os.path.exists(_core.wait_board_path()), "the last user has removed it", seconds=5.0)


@pytest.mark.parametrize("how", ["fork", "removed"])
def test_the_board_goes_while_it_is_read(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making a record for whoever asks is Python code: a signal handler may fork in it, other threads may run."""
    mutex = KMutex(0)
    tickets = [_core.begin_wait(mutex, _core.WAIT_TASK, 1) for _ in range(3)]
    real, children = _core.WaitRecord, []

    def record(*facts: Any) -> Any:
        monkeypatch.setattr(_core, "WaitRecord", real)
        if how == "removed":
            os.unlink(_core.wait_board_path())
            assert _core.wait_records() == []
        else:
            children.append(os.fork())
        return real(*facts)

    monkeypatch.setattr(_core, "WaitRecord", record)
    parent = os.getpid()
    found = _core.wait_records(mutex.nonce, mutex.slot_index, mutex.generation)
    if os.getpid() != parent:
        os._exit(len(found))
    assert len(found) == (3 if how == "fork" else 1)
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    for ticket in tickets:
        _core.end_wait(ticket)
