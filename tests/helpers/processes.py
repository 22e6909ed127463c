"""Children that talk: processes and threads that a test leads step by step, and what they look like from outside."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import struct
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from support import DEADLINE, kill, wait_until

from wdkmutex_shm.base.layout import HEADER_BYTES, SLOT_BYTES
from wdkmutex_shm.memory import shm

STARVING_AT = 56  # offset in a slot of the count of waiters that have waited longest, see slot.h


class Line:
    """One end of a conversation: what is said here is heard at the other end, in order."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def say(self, what: Any = "done") -> None:
        self._connection.send(("said", what))

    def hear(self, seconds: float = DEADLINE) -> Any:
        assert self._connection.poll(seconds), f"nothing heard within {seconds:g} s"
        kind, what = self._connection.recv()
        assert kind == "said", what
        return what

    def silent(self, seconds: float) -> bool:
        """Whether nothing is heard for that long."""
        return not self._connection.poll(seconds)

    def failed(self, what: str) -> None:
        with contextlib.suppress(OSError):
            self._connection.send(("failed", what))

    def close(self) -> None:
        self._connection.close()


class Child(Line):
    """A process that runs ``target(line, *args)``; leave its ``with`` and it has ended, if need be killed."""

    def __init__(self, target: Callable[..., Any], *args: Any, method: str = "fork") -> None:
        context: Any = multiprocessing.get_context(method)
        ours, theirs = context.Pipe()
        super().__init__(ours)
        self.process = context.Process(target=_run, args=(theirs, target, args), daemon=True)
        self.process.start()
        theirs.close()
        self.pid: int = self.process.pid

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it with a signal and wait until it has ended."""
        kill(self.pid, number)
        self.process.join()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self) -> None:
        """Suspend it, and wait until it is."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(lambda: state_of(self.pid) == "T", "the child is stopped")

    def proceed(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def end(self) -> int:
        """Wait for its end and return its exit code."""
        kill(self.pid, 0)  # not join(timeout): that waits for all who inherited the child's descriptors
        self.process.join()
        return int(self.process.exitcode)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)
            kill(self.pid)
        self.process.join()
        self.process.close()
        self.close()


def _run(connection: Connection, target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    line = Line(connection)
    try:
        target(line, *args)
    except BaseException:
        line.failed(traceback.format_exc())


def in_child(work: Callable[..., Any], *args: Any, method: str = "fork") -> Any:
    """Run ``work`` in a child process to its end and return what it returned. Any error there fails here."""
    with Child(_say_result, work, args, method=method) as child:
        result = child.hear()
        assert child.end() == 0
        return result


def _say_result(line: Line, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    line.say(work(*args))


class Worker(Line):
    """A thread that runs ``target(line, *args)``; a failure in it fails whoever hears it."""

    def __init__(self, target: Callable[..., Any], *args: Any) -> None:
        ours, theirs = multiprocessing.Pipe()
        super().__init__(ours)
        self._theirs = theirs
        self.thread = threading.Thread(target=_run, args=(theirs, target, args), daemon=True)
        self.thread.start()

    def end(self) -> None:
        """Wait for its end."""
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive(), "the thread does not end"

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.thread.join(DEADLINE if kind is None else 0.1)
        assert kind is not None or not self.thread.is_alive(), "the thread does not end"
        self.close()
        self._theirs.close()


def in_thread(work: Callable[..., Any], *args: Any) -> Any:
    """Run ``work`` in another thread to its end and return what it returned."""
    with Worker(_say_result, work, args) as worker:
        return worker.hear()


def state_of(pid: int) -> str:
    """The state letter of a process, see proc(5)."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0]


def slot_offset(mutex: Any, field: int = 0) -> int:
    """Where a field of the mutex's slot lies in its segment."""
    return HEADER_BYTES + int(mutex.slot_index) * SLOT_BYTES + field


def read_shm(name: str, offset: int, length: int) -> bytes:
    """Bytes of a shared memory segment, read behind the library's back."""
    with open(shm.FOLDER + name, "rb") as file:
        return os.pread(file.fileno(), length, offset)


def write_shm(name: str, offset: int, raw: bytes) -> None:
    """Change bytes of a shared memory segment behind the library's back."""
    with open(shm.FOLDER + name, "r+b") as file:
        os.pwrite(file.fileno(), raw, offset)


def waiters(mutex: Any) -> int:
    """How many have waited for the lock for more than a millisecond and still do."""
    (count,) = struct.unpack("=I", read_shm(mutex.segment, slot_offset(mutex, STARVING_AT), 4))
    return int(count)


def wait_for_waiter(mutex: Any, count: int = 1) -> None:
    """Return once so many threads or processes wait for the lock."""
    wait_until(lambda: waiters(mutex) >= count, f"{count} wait for {mutex!r}")


@contextlib.contextmanager
def held_by_child(mutex: Any, method: str = "fork") -> Iterator[Child]:
    """A child process that holds the lock; it releases when told anything."""
    with Child(hold_until_told, mutex, method=method) as child:
        child.hear()
        yield child


def hold_until_told(line: Line, mutex: Any) -> None:
    from kinds import acquire

    hold = acquire(mutex)
    line.say(hold.abandoned)
    line.hear()
    hold.release()
    line.say("released")
