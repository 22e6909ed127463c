"""The daemon's log tells what happened to the mutexes of its instance: holders that died, deadlocks, their end."""

from __future__ import annotations

import os
import re
import signal
from typing import Any

import pytest
from processes import Child, Line
from support import daemon_pid, kill, wait_until

from wdkmutex_shm import DeadlockError, Grt
from wdkmutex_shm.base import runtime_dir
from wdkmutex_shm.observe import deadlock

pytestmark = pytest.mark.slow  # the daemon looks every two seconds


def log_of(instance: str) -> str:
    with open(runtime_dir.log_path(instance), encoding="utf-8") as file:
        return file.read()


def logged(instance: str, pattern: str) -> None:
    wait_until(lambda: re.search(pattern, log_of(instance)), f"the log has {pattern}")


def hold(line: Line, name: str) -> None:
    with Grt.get_fast_mutex(name, int).lock():
        line.say()
        signal.pause()


def killed_holder(name: str) -> int:
    with Child(hold, name) as child:
        child.hear()
        child.kill()
        return child.pid


def test_abandoned_locks(grt: str) -> None:
    a, b = (Grt.register_fast_mutex(name, 0) for name in "ab")
    first = killed_holder("a")
    logged(grt, rf"abandoned: process {first} died while holding 'a'; .* the next owner will see `abandoned`")
    with a.lock() as guard:
        assert guard.abandoned
    second = killed_holder("b")
    with b.lock() as guard:  # taken over before or after the daemon looks
        assert guard.abandoned
    logged(grt, rf"abandoned: process {second} died while holding 'b'")
    assert log_of(grt).count("abandoned: ") == 2, "each is told of once"

    kill(daemon_pid(grt))
    Grt.names()  # the next daemon
    third = killed_holder("a")
    logged(grt, rf"abandoned: process {third} died while holding 'a'")
    assert log_of(grt).count("abandoned: ") == 3, "what was told of before is not told of again"


def circle(line: Line, first: Any, second: Any) -> None:
    with first.lock():
        line.say()
        line.hear()
        try:
            with second.lock():
                line.say("had it")
        except DeadlockError:
            line.say("was told")
    line.hear()


def test_deadlocks_of_named_mutexes(grt: str) -> None:
    a, b = (Grt.register_fast_mutex(name, 0) for name in ("accounts", "orders"))
    with Child(circle, a, b) as one, Child(circle, b, a) as other:
        for child in (one, other):
            child.hear()
        for child in (one, other):
            child.say()
        assert {one.hear(), other.hear()} == {"had it", "was told"}
        name = "'(accounts|orders)'"
        for pid in (one.pid, other.pid):  # they live, and with them the board
            logged(grt, rf"deadlock of 2 threads, .*process {pid}, thread {pid} holds {name} and waits for {name}")
        number, found = deadlock.told(0)
        assert found[-1][0] == [grt]
        assert deadlock.told(number) == (number, [])
        for child in (one, other):
            child.say()
            assert child.end() == 0
    assert log_of(grt).count("deadlock of") == 1


def test_who_destroyed_it(grt: str) -> None:
    for name in "abc":
        Grt.register_kmutex(name, 0)
    with open(runtime_dir.log_path(grt), encoding="utf-8") as log:  # the file may go with the instance
        Grt.destroy()
        wait_until(
            lambda: log.seek(0) == 0 and f"3 mutexes, as process {os.getpid()} asked" in log.read(), "it is told"
        )
