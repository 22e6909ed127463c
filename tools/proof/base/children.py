"""Forked children that report how they ended: what they returned or raised, or the signal that ended them."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from wdkmutex_shm.pool import private

__all__ = ["Child", "Outcome", "in_child"]


#: How many of the frames that an error came through are told.
_FRAMES = 6


class Outcome(NamedTuple):
    """How a child ended.

    Attributes:
        value: what its function returned.
        error: what it raised, and where; None if it returned.
        signal: number of the signal that ended it, else 0.
        late: it did not end in time and was killed.
    """

    value: Any
    error: str | None
    signal: int
    late: bool

    @property
    def well(self) -> bool:
        """Whether the function returned."""
        return self.error is None and not self.signal and not self.late

    def told(self) -> str:
        """In a few words, for a report."""
        if self.late:
            return "it hung and was killed"
        if self.signal:
            return f"it was ended by {signal.Signals(self.signal).name}"
        return self.error or "it returned"


class Child:
    """A forked child that runs a function of no arguments. Leave its ``with`` and it has ended, if need be killed.

    Args:
        work: what it runs; the result is pickled.
        new_user: uid and gid that it takes on first, when not None.
    """

    def __init__(self, work: Callable[[], Any], *, new_user: int | None = None) -> None:
        self._receive, send = os.pipe()
        self._status: int | None = None
        self._raw = b""
        self.pid = os.fork()
        if self.pid == 0:
            _run(work, self._receive, send, new_user)
        os.close(send)
        self._fd = os.pidfd_open(self.pid)

    def ended(self, seconds: float = 0.0) -> bool:
        """Wait for its end, and tell whether it has come."""
        deadline = time.monotonic() + seconds
        while self._status is None:
            readable = [self._fd] if self._receive < 0 else [self._fd, self._receive]
            found = select.select(readable, [], [], max(0.0, deadline - time.monotonic()))[0]
            if self._receive in found:
                self._read()
            elif self._fd in found:
                self._status = os.waitpid(self.pid, 0)[1]
                self._read()
            elif not found:
                break
        return self._status is not None

    def _read(self) -> None:
        while self._receive >= 0 and select.select([self._receive], [], [], 0)[0]:
            data = os.read(self._receive, 1 << 16)
            self._raw += data
            if not data:
                os.close(self._receive)
                self._receive = -1

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, number)

    def outcome(self, seconds: float) -> Outcome:
        """Wait so long for its end, kill it if it has not come, and tell how it ended."""
        late = not self.ended(seconds)
        if late:
            self.kill()
            self.ended(30.0)
        self.close()
        status = self._status if self._status is not None else 0
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        value, error = None, None
        if self._raw:
            value, error = pickle.loads(self._raw)  # of a child of ours
        elif not number and not late:
            error = f"it ended with status {os.waitstatus_to_exitcode(status)} and said nothing"
        return Outcome(value, error, 0 if late else number, late)

    def close(self) -> None:
        """End it, if it has not ended."""
        if self._status is None:
            self.kill(signal.SIGCONT)
            self.kill()
            self.ended(30.0)
        for fd in (self._fd, self._receive):
            if fd >= 0:
                os.close(fd)
        self._fd = self._receive = -1

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _run(work: Callable[[], Any], receive: int, send: int, new_user: int | None) -> None:
    """The child's life."""
    told: tuple[Any, str | None] = None, "it was ended"
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.close(receive)
        if new_user is not None:
            os.setgroups([])
            os.setgid(new_user)
            os.setuid(new_user)
        told = work(), None
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
        where = " > ".join(f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in frames)
        told = None, f"{type(error).__name__}: {error}  [{where}]"
    finally:
        try:
            _leave()
            _write(send, pickle.dumps(told))
        finally:
            os._exit(0)


def _leave() -> None:
    """os._exit runs no exit handlers: remove this process's private pool here."""
    with contextlib.suppress(Exception):
        private.close()


def _write(fd: int, raw: bytes) -> None:
    view = memoryview(raw)
    while view:
        view = view[os.write(fd, view) :]


def in_child(work: Callable[[], Any], seconds: float = 60.0, *, new_user: int | None = None) -> Outcome:
    """Run a function in a forked child to its end and tell how it ended."""
    with Child(work, new_user=new_user) as child:
        return child.outcome(seconds)
