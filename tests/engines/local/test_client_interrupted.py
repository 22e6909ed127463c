"""Calls of the Grt that signal handlers come into: handlers that raise, that make calls of their own, that leave."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import DEADLINE, Fork, daemon_pid, wait_until

from wdkmutex_shm import FastMutex, Grt
from wdkmutex_shm.engines.local._wire import Turns
from wdkmutex_shm.errors import GrtIsNull, ProtocolError
from wdkmutex_shm.grt import session
from wdkmutex_shm.protocol import messages


class Interrupted(Exception):
    """What a handler raises; an Exception, as the time limits of task queues are."""


@pytest.fixture
def handle() -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Sets what SIGALRM does."""
    before = signal.getsignal(signal.SIGALRM)

    def handle(work: Callable[[], Any]) -> None:
        signal.signal(signal.SIGALRM, lambda *_: work())

    yield handle
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_turn_ends_when_nothing_refers_to_it() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError):
        _ = (turns.take(0), 1 // 0)
    turn = turns.take(0)
    assert turn is not None and turns.mine()
    assert turns.take(0) is None
    turn.end()
    turn.end()
    assert not turns.mine()
    assert turns.take(0) is not None


def test_a_turn_is_of_one_thread() -> None:
    turns = Turns()
    turn = turns.take(-1)
    seen: list[Any] = []
    other = threading.Thread(target=lambda: seen.extend((turns.mine(), turns.take(0))))
    other.start()
    other.join(DEADLINE)
    assert seen == [False, None]
    assert turn is not None


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_handler_that_raises_anywhere_leaves_the_connection_usable(grt: str, handle: Any) -> None:
    Grt.register_fast_mutex("n", 0)
    chance = random.Random(5)

    def stop() -> None:
        raise Interrupted

    def interrupted_calls() -> None:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 5e-4))
        while True:
            assert Grt.get_fast_mutex("n").name == "n"

    handle(stop)
    for _ in range(1500):
        with contextlib.suppress(Interrupted):
            interrupted_calls()
        assert not session.current()._turns.mine()
    assert Grt.names() == ["n"]


def during(taken: Callable[[], bool], work: Callable[[], Any]) -> Any:
    """Do ``work`` in the main thread, which is sent SIGALRM as soon as it has ``taken`` what it works with."""

    def interrupt() -> None:
        wait_until(taken)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    other = threading.Thread(target=interrupt)
    other.start()
    try:
        return work()
    finally:
        other.join(DEADLINE)


def in_a_call() -> bool:
    return session.current()._turns.take(0) is None


@pytest.fixture
def stopped(grt: str) -> Iterator[int]:
    """Pid of a daemon that is stopped, so that a call lasts until it goes on."""
    pid = daemon_pid(grt)
    os.kill(pid, signal.SIGSTOP)
    yield pid
    os.kill(pid, signal.SIGCONT)


def test_a_handler_makes_calls_in_the_midst_of_a_call(stopped: int, handle: Any) -> None:
    found: list[Any] = []

    def work() -> None:
        os.kill(stopped, signal.SIGCONT)
        Grt.register_many(FastMutex, {f"n{n:04}": n for n in range(5000)})
        found.extend(Grt.names())  # in pages, over one connection

    handle(work)
    assert during(in_a_call, Grt.names) in ([], found)
    assert found == [f"n{n:04}" for n in range(5000)]
    assert session.current()._aside is None


def test_a_handler_leaves_the_grt_in_the_midst_of_a_call(stopped: int, handle: Any) -> None:
    client = session.current()

    def work() -> None:
        os.kill(stopped, signal.SIGCONT)
        Grt.detach()

    handle(work)
    assert during(in_a_call, Grt.names) == []
    assert Grt.instance() is None
    assert client._socket is None


def test_a_handler_makes_calls_while_init_does(stopped: int, grt: str, handle: Any) -> None:
    Grt.detach()
    found: list[Any] = []

    def initialising() -> bool:
        if session._lock.acquire(blocking=False):
            session._lock.release()
            return False
        return True

    def work() -> None:
        os.kill(stopped, signal.SIGCONT)
        found.append(session.client_of(grt).call("names")["names"])

    handle(work)
    during(initialising, lambda: Grt.init(grt, autostart=False))
    assert found == [[]]
    assert Grt.names() == []


def test_what_a_handler_raises_is_not_taken_for_a_bad_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpackb(*_: Any, **__: Any) -> Any:
        raise Interrupted

    with pytest.raises(ProtocolError):
        messages.decode_reply(b"\xc1")
    monkeypatch.setattr(messages.msgpack, "unpackb", unpackb)
    with pytest.raises(Interrupted):
        messages.decode_reply(b"\x92\xc3\x80")


def mapped_of_the_dead() -> list[str]:
    gc.collect()
    with open("/proc/self/maps") as maps:
        return [line for line in maps if "/wdkm." in line and ".@" not in line and "(deleted)" in line]


@pytest.mark.parametrize("anew", [True, False])
def test_the_memory_of_an_instance_goes_after_another_process_destroyed_it(grt: str, anew: bool) -> None:
    Grt.register_many(FastMutex, dict.fromkeys(map(str, range(1500)), 0))  # two segments
    with Fork(Grt.destroy) as child:
        child.result()
    assert mapped_of_the_dead()
    if anew:
        Grt.init(grt)
        Grt.register_fast_mutex("n", 0)
    else:
        with pytest.raises(GrtIsNull):
            Grt.names()
    assert mapped_of_the_dead() == []


def test_what_a_handler_raises_is_not_taken_for_damage(handle: Any) -> None:
    mutex = FastMutex((1, 2))  # one of the T that are not read by the core alone

    def stop() -> None:
        raise Interrupted

    def interrupted_reads() -> None:
        signal.setitimer(signal.ITIMER_REAL, 5e-5)
        while True:
            assert mutex.replace((1, 2)) == (1, 2)
            assert mutex.peek() == (1, 2)

    handle(stop)
    for _ in range(1000):
        with contextlib.suppress(Interrupted):
            interrupted_reads()
