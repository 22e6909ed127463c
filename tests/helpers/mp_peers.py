"""Children of a crash-proof context, and what several tests let them do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from processes import Child, Line
from support import DEADLINE

METHODS = ("fork", "spawn", "forkserver")


class Alarm(Exception):
    """Raised by a signal handler."""


class Clock:
    """The clock of a queue's books, in this process: milliseconds that pass when a test says so."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


class Peer(Child):
    """A child of a crash-proof context, killed when its ``with`` is left."""

    def __init__(self, context: Any, target: Callable[..., Any], *args: Any) -> None:
        # Child starts it through multiprocessing's own context of the same method: what is handed over must not care.
        super().__init__(target, *args, method=context.get_start_method())


def asleep(pid: int) -> bool:
    """Whether a process sleeps, in whatever: it waits, if that is what it was told to do last."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


def hold(line: Line, lock: Any) -> None:
    assert lock.acquire()
    line.say("held")
    line.hear(3600)


def wait_for(line: Line, lock: Any, timeout: float | None = None) -> None:
    line.say("waiting")
    line.say(lock.acquire(timeout=timeout))
    line.hear(3600)


def put_all(line: Line, items: Any, *what: Any) -> None:
    for one in what:
        items.put(one)
    if hasattr(items, "join_thread"):
        items.close()
        items.join_thread()
    line.say("put")
    line.hear(3600)


def get_all(line: Line, items: Any, count: int) -> None:
    for _ in range(count):
        line.say(items.get())
    line.hear(3600)


def reserve(line: Line, items: Any, count: int) -> None:
    for _ in range(count):
        assert items._counts.reserve(True, DEADLINE)  # in the buffer, and not yet sent
    line.say("reserved")
    line.hear(3600)


def take_raw(line: Line, items: Any) -> None:
    items._counts.will_take()
    items._reader.take(True)  # taken, and not yet noted
    line.say("taken")
    line.hear(3600)


def join(line: Line, items: Any) -> None:
    line.say("joining")
    items.join()
    line.say("joined")
